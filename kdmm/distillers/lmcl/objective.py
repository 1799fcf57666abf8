"""`LMCL`, a cohort that learns which layers of its networks match (arXiv 2207.11518)."""

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from kdmm.distillers.cohort.cohort import Cohort
from kdmm.distillers.cohort.terms import CohortTerm, MutualTerm
from kdmm.distillers.lmcl.elsewhere import Elsewhere
from kdmm.distillers.objective import OwnLosses, Training, register_objective
from kdmm.distillers.term import gather_context
from kdmm.errors import ConfigError, refuse_unknown
from kdmm.functional import meta_gradient, world_size
from kdmm.functional.meta_gradient import FORMS
from kdmm.losses.base import Batch, OwnedOptimizer
from kdmm.losses.layer_matching import MatchedLayers
from kdmm.schedules import Progress

_DEFAULTS = dict(every=50, steps=2, form='adjoint', published_adjoint=False, momentum=0.9)


@register_objective('LMCL')
class LMCL(Cohort):
    """A cohort with a term whose matching of layers is trained, too (L-MCL, arXiv 2207.11518).

    Everything else is a `Cohort` with branches. Every ``meta.every`` iterations, after the
    optimizer's step and before banks are written, the same batch serves a *phase*: from the present
    weights some steps of SGD along the term's loss, one along the labels' losses, and the gradient
    of the labels' loss behind them with respect to the matching. The matching takes a step along
    it; networks, statistics of BN, banks, optimizer and random generators stay as they were.

    The steps are SGD with momentum, started anew in each phase, and each parameter's learning rate
    and weight decay in the optimizer of the run. They are taken by networks, branches and the
    term's heads, in float32, with the same random draws (dropout) in each. The matching's optimizer
    is SGD with Nesterov momentum, with learning rate and weight decay of the first group of the
    run's optimizer.

    Over ranks gradients of all steps are means, so that the matching is the same on all.

    Args:
        student: The network at place ``keep``.
        config: Its model config.
        meta: ``dict(every=50, steps=2, form='adjoint', published_adjoint=False, momentum=0.9)``,
            or some of it. ``every``: iterations from one phase to the next, in each epoch from its
            first iteration on (500 for ImageNet); in loops without epochs, of the whole run.
            ``steps``: along the term. ``form``: ``'unrolled'`` keeps the graphs of all steps, see
            `kdmm.functional.meta_gradient`, also for ``published_adjoint``. ``momentum``: of the
            steps and of the matching's optimizer.
        options: See `Cohort`.

    Raises:
        ConfigError: As `Cohort`; if not one term has a matching that is learnt.
    """

    trains_matching = True

    def __init__(
        self,
        student: nn.Module,
        config: Mapping[str, Any],
        meta: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(student, config, **options)
        self.meta = checked_meta({} if meta is None else meta)
        self._matched = self._matched_term()
        self.hooks.append(dict(type='kdmm.MatchingHook'))
        matching = cast(nn.Module, self.matched_loss.matching)
        self.matching_optimizer = OwnedOptimizer(matching, self._optimizer)
        self._model = (student,)  # in a tuple, it is no child of its own child
        self._training: Training | None = None
        self._iteration = 0
        self._step: str | None = None  # of a phase: 'terms' or 'labels'
        self._found: dict[str, Any] = {}

    @property
    def matched(self) -> MutualTerm:
        """The term whose matching is learnt."""
        return cast(MutualTerm, self.terms[self._matched])

    @property
    def matched_loss(self) -> MatchedLayers:
        """Its loss."""
        return cast(MatchedLayers, self.matched.loss)

    def forward(
        self, own: OwnLosses, inputs: Any, samples: Sequence[Any] | None
    ) -> dict[str, Tensor]:
        """As `Cohort`; in a phase the losses of the step that is computed."""
        if self._step is None:
            return super().forward(own, inputs, samples)
        losses, activations = self.run_networks(own, inputs, samples)
        if self._step == 'labels':
            return losses
        context = gather_context(self.matched.loss.needs, samples)
        return self.matched.weigh(self.matched.compute(activations, **context))

    def see_training(self, training: Training) -> None:
        """Refuse what no phase can be computed with.

        Raises:
            ConfigError: If there are fewer iterations than from phase to phase, or SyncBN.
        """
        super().see_training(training)
        if self.meta['every'] > training.iterations:
            raise ConfigError(
                f'the run has {training.iterations} iterations, so the matching would hardly learn',
                key='kd.meta.every',
                got=self.meta['every'],
                expected='fewer iterations than the run has',
            )
        synced = any('SyncBatchNorm' in type(m).__name__ for m in self._model[0].modules())
        if synced and world_size() > 1:
            raise ConfigError(
                'the meta-optimisation needs second derivatives, and SyncBN has none',
                key='sync_bn',
                fix='Leave it out: each rank then normalises its own images.',
            )
        self._training = training

    def set_progress(self, progress: Progress) -> None:
        """Move all schedules."""
        super().set_progress(progress)
        self._iteration = progress.iteration

    def after_step(self) -> None:
        """Run a phase if one is due; then as `Cohort`."""
        if self.batch is not None and self._training is not None and self._due(self._training):
            self.phase(self.batch, self._training.optimizers)
        super().after_step()

    def diagnostics(self) -> dict[str, Any]:
        """As `Cohort`, with the last phase: ``kd.meta_objective``, its gradient and seconds."""
        return {**super().diagnostics(), **self._found}

    def phase(self, batch: Batch, optimizers: Iterable[torch.optim.Optimizer]) -> None:
        """Train the matching by one step.

        Args:
            batch: Of the last training step.
            optimizers: Of the run; they say learning rates and weight decays.
        """
        started = time.perf_counter()
        groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        rates = {id(p): (g['lr'], g.get('weight_decay', 0.0)) for g in groups for p in g['params']}
        theta, phi = self._inner_parameters(), self._matching_parameters()
        lr, decay = zip(*(rates.get(id(p), (0.0, 0.0)) for p in theta.values()), strict=True)
        at = Elsewhere(self._model[0], batch, ['kd.terms.'])

        def loss(step: str, weights: Sequence[Tensor], matching: Sequence[Tensor]) -> Tensor:
            self._step = step
            try:
                losses = at(dict(zip([*theta, *phi], [*weights, *matching], strict=True)))
            finally:
                self._step = None
            return summed(losses)

        def terms(weights: list[Tensor], matching: list[Tensor]) -> Tensor:
            return loss('terms', weights, matching)

        def labels(weights: list[Tensor], _: Sequence[Tensor] = ()) -> Tensor:
            return loss('labels', weights, list(phi.values()))

        matched, device = self.matched_loss, next(iter(theta.values())).device.type
        with matched.differentiate_matching(), torch.autocast(device, enabled=False):
            found = meta_gradient(
                [*[terms] * self.meta['steps'], labels],
                labels,
                list(theta.values()),
                list(phi.values()),
                lr,
                decay,
                self.meta['momentum'],
                self.meta['form'],
                self.meta['published_adjoint'],
            )
        for group in self.matching_optimizer.optimizer.param_groups:
            group.update(lr=groups[0]['lr'], weight_decay=groups[0].get('weight_decay', 0.0))
        self.matching_optimizer.step_along(found.grads)
        norm = torch.stack([grad.norm() for grad in found.grads]).norm()
        seconds = time.perf_counter() - started
        self._found = {
            'kd.meta_objective': found.value,
            'kd.meta_gradient_norm': norm,
            'kd.meta_seconds': torch.tensor(seconds),
        }

    def _due(self, training: Training) -> bool:
        iteration = self._iteration
        if training.per_epoch:
            iteration %= training.per_epoch
        return iteration % self.meta['every'] == 0

    def _matched_term(self) -> str:
        terms = cast(list[CohortTerm], list(self.terms.values()))
        found = [term for term in terms if term.first.loss.needs_meta]
        if len(found) != 1:
            names = ', '.join(term.name for term in found) or 'none'
            raise ConfigError(
                f'one term has a matching that is learnt, here {names}',
                key='kd.losses',
                expected="one dict(type='LMCLLoss', matching='learned', on='stages', ...)",
                fix="A matching that is fixed, or MCL, needs kd.type='Cohort'.",
            )
        return found[0].name

    def _optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        # learning rate and weight decay are set in each phase
        return torch.optim.SGD(parameters, lr=0.0, momentum=self.meta['momentum'], nesterov=True)

    def _inner_parameters(self) -> dict[str, nn.Parameter]:
        """Trained parameters by name, without those of other terms, which no step depends on."""
        mine = f'kd.terms.{self._matched}.'
        return {
            name: p
            for name, p in self._model[0].named_parameters()
            if p.requires_grad and (name.startswith(mine) or not name.startswith('kd.terms.'))
        }

    def _matching_parameters(self) -> dict[str, nn.Parameter]:
        mine = {id(p) for p in cast(nn.Module, self.matched_loss.matching).parameters()}
        return {name: p for name, p in self._model[0].named_parameters() if id(p) in mine}


def summed(losses: Mapping[str, Any]) -> Tensor:
    """Sum of the entries that MMEngine adds up: scalars, or lists of them, of loss names."""
    found = [
        part.mean()
        for name, value in losses.items()
        if 'loss' in name
        for part in ([value] if isinstance(value, Tensor) else value)
    ]
    return torch.stack(found).sum()


def checked_meta(meta: Any) -> dict[str, Any]:
    """Fill in and check ``kd.meta``.

    Raises:
        ConfigError: Names the key.
    """
    if not isinstance(meta, Mapping):
        raise ConfigError(key='kd.meta', got=meta, expected='a dict')
    refuse_unknown('kd.meta', meta, _DEFAULTS)
    found: dict[str, Any] = {**_DEFAULTS, **meta}
    for key in ('every', 'steps'):
        if type(found[key]) is not int or found[key] < 1:
            raise ConfigError(key=f'kd.meta.{key}', got=found[key], expected='1 or more')
    if found['form'] not in FORMS:
        raise ConfigError(key='kd.meta.form', got=found['form'], expected=' or '.join(FORMS))
    if type(found['published_adjoint']) is not bool or (
        found['published_adjoint'] and found['form'] != 'adjoint'
    ):
        raise ConfigError(
            key='kd.meta.published_adjoint',
            got=found['published_adjoint'],
            expected="True or False, and True with form='adjoint' only",
        )
    momentum = found['momentum']
    if isinstance(momentum, bool) or not isinstance(momentum, int | float) or not 0 < momentum < 1:
        raise ConfigError(key='kd.meta.momentum', got=momentum, expected='above 0 and below 1')
    return found
