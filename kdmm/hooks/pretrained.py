"""A backbone that starts from a file starts from all of it."""

from typing import Any

from mmengine.dist import all_gather_object
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from torch import nn

from kdmm.errors import ConfigError
from kdmm.registry import HOOKS
from kdmm.utils.models import pretrained_init


@HOOKS.register_module()
class PretrainedBackboneHook(Hook):
    """Compares the backbone with the file of its ``init_cfg`` before the first iteration.

    Every parameter and buffer must be the file's, and no weight of the file may be left over but a
    classifier's. Files of ``tools/convert.py`` and checkpoints of MMEngine also say how bottlenecks
    stride and how images were normalised; a network that does otherwise is refused. Nothing is
    compared where ``load_from`` or a resumed run replaced the weights.
    """

    def __init__(self) -> None:
        self.replaced = False

    def before_run(self, runner: Any) -> None:
        """Look at the file before MMEngine stumbles over it.

        Raises:
            ConfigError: If it does not fit the backbone or its images.
        """
        if not runner.cfg.get('load_from') and not runner.cfg.get('resume'):
            self._check(runner, values=False)

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """The weights are another file's."""
        self.replaced = True

    def before_train(self, runner: Any) -> None:
        """Compare.

        Raises:
            ConfigError: On all ranks, if one of them does not hold its file.
        """
        if not self.replaced:
            self._check(runner, values=True)

    def _check(self, runner: Any, values: bool) -> None:
        problem, done = '', ''
        try:
            done = self._compare(runner, values)
        except ConfigError as error:
            problem = str(error)
        problems = [text for text in all_gather_object(problem) if text]
        if problems:  # no rank may wait for another that has left
            raise ConfigError(problems[0])
        if values:
            runner.logger.info(done)

    def _compare(self, runner: Any, values: bool) -> str:
        from kdmm.transfer.inputs import Normalisation  # late: it needs the engine, that the hooks
        from kdmm.transfer.loaded import fitting

        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        net = getattr(model, 'backbone', None)
        given: Any = getattr(net, 'init_cfg', None)
        init = pretrained_init(given)
        if not isinstance(net, nn.Module) or init is None or 'checkpoint' not in init:
            raise ConfigError(
                f'PretrainedBackboneHook: model.backbone.init_cfg is {given!r}, expected '
                "dict(type='Pretrained', checkpoint=...); without a file, leave the hook out"
            )
        config = runner.cfg.get('model') or {}
        images = config.get('data_preprocessor') or runner.cfg.get('data_preprocessor')
        scope = runner.cfg.get('default_scope') or 'mmengine'
        unsafe = bool(runner.cfg.get('unsafe_checkpoint', False))
        found = fitting(net, init, Normalisation.of(images), 'model.backbone', scope, unsafe)
        if values:
            found.check_values(net)
        return str(found)
