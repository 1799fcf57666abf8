"""An objective that consists of the terms of ``kd.losses``."""

from typing import Any, cast

from torch import nn

from kdmm.distillers.attach import Objective
from kdmm.distillers.weighted import WeightedLoss
from kdmm.schedules import Progress


class TermedObjective(Objective):
    """What all such objectives do with their terms between the steps.

    Attributes:
        terms: Name to `WeightedLoss`, in the order of the config; subclasses fill it.
    """

    terms: nn.ModuleDict

    def set_progress(self, progress: Progress) -> None:
        """Move the schedules; the hook `DistillHook` calls it before each iteration."""
        for term in self._weighted():
            term.set_progress(progress)

    def see_loader(self, loader: Any) -> None:
        """Show the training data to losses that need to know it all."""
        for loss in self._losses('see_dataset'):
            loss.see_dataset(loader.dataset)

    def after_step(self) -> None:
        """Let losses that train or remember something of their own do so."""
        for loss in self._losses('after_step'):
            loss.after_step()

    def diagnostics(self) -> dict[str, Any]:
        """``kd.<term>_<key>`` of what losses keep in ``logged``."""
        return {
            key: value for term in self._weighted() for key, value in term.diagnostics().items()
        }

    def _weighted(self) -> list[WeightedLoss]:
        return [part for part in self.terms.modules() if isinstance(part, WeightedLoss)]

    def _losses(self, able: str) -> list[Any]:
        return [cast(Any, t.loss) for t in self._weighted() if hasattr(t.loss, able)]
