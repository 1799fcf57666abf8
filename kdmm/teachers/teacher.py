"""`Teacher`, a network whose taps are read."""

import copy
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.registry import MODELS as ROOT_MODELS
from torch import Tensor, nn

from kdmm.checkpoints import (
    fingerprint,
    load_strictly,
    read_checkpoint,
    state_dict_of,
    weights_only,
)
from kdmm.compat.packages import require_scopes
from kdmm.errors import ConfigError, about
from kdmm.taps import Taps
from kdmm.teachers.inputs import InputAdapter, ViewOf
from kdmm.teachers.zoo import zoo_checkpoint, zoo_config
from kdmm.utils.models import without_pretrained
from kdmm.utils.seeds import seeded

#: Seed of random weights, which no run's own seed equals: student and teacher differ.
RANDOM = (0x6B646D6D, 0x7465)


def load_model_config(config: str, key: str = 'kd.teacher.config') -> tuple[dict[str, Any], str]:
    """The ``model`` of a config file or of ``package::path``, and its default scope.

    Args:
        config: File or ``package::path``.
        key: The config key, for errors.

    Raises:
        ConfigError: If there is no such config, it has no model, or its base library is missing.
    """
    if not isinstance(config, str):
        raise ConfigError(key=key, got=config, expected='a file or package::path')
    try:
        cfg = Config.fromfile(zoo_config(config) if '::' in config else config)
    except (Exception, SystemExit) as error:  # a config's text may raise anything
        kind = '' if isinstance(error, (OSError, ImportError)) else f'{type(error).__name__}: '
        raise ConfigError(f'it cannot be read ({kind}{error})', key=key, got=config) from error
    require_scopes(cfg, f'{key}: ')
    if 'model' not in cfg:
        raise ConfigError('it has no model', key=key, got=config)
    model = copy.deepcopy(cfg.model)  # a ConfigDict: mmseg sets attributes on its parts
    if 'data_preprocessor' in cfg:
        model.setdefault('data_preprocessor', copy.deepcopy(cfg.data_preprocessor))
    return model, cfg.get('default_scope', 'mmengine')


class Teacher:
    """A trained network in eval mode whose taps are read and whose weights never change.

    It is no ``nn.Module``, so it appears in no ``state_dict``, optimizer, DDP bucket, EMA
    copy or ``train()``; :meth:`apply` lets it follow the student from device to device.

    Args:
        config: Config file or ``package::path`` of any OpenMMLab library. Either this or ``model``.
        checkpoint: Path, URL, ``'zoo'`` (the weights that the library's metafile names for
            ``config``), or None together with ``random=True``.
        model: Model dict in place of ``config``.
        random: Declare that random weights are meant (smoke tests). They are the same on each rank
            and in each run, whatever its seed, so that a resumed run has the teacher it began with.
        dtype: Compute in this dtype, for instance ``'bfloat16'``; default the student's precision.
        channels_last: Use the channels-last memory format.
        compile: Pass the network through `torch.compile`.
        unsafe: Allow a checkpoint that is more than weights; see `read_checkpoint`.
        container: Entry of the checkpoint that holds the weights, such as ``'model'`` or
            ``'ema_state_dict'``; default ``'state_dict'``, or the file itself.
        prefix: Take the weights below this prefix only, such as ``'student'``.

    Raises:
        ConfigError: For contradictory arguments, an unreadable config or checkpoint, or weights
            that do not fit.
    """

    def __init__(
        self,
        config: str | None = None,
        checkpoint: str | None = None,
        model: Mapping[str, Any] | None = None,
        random: bool = False,
        dtype: str | None = None,
        channels_last: bool = False,
        compile: bool = False,
        unsafe: bool = False,
        container: str | None = None,
        prefix: str | None = None,
    ) -> None:
        if (config is None) == (model is None):
            both = config is not None
            raise ConfigError(
                'both config and model' if both else 'neither config nor model',
                key='kd.teacher',
                fix='Give either config or model.',
            )
        if model is not None and not isinstance(model, Mapping):
            raise ConfigError(
                key='kd.teacher.model',
                got=model,
                expected='the dict of a model',
                fix='A file or package::path is named by config.',
            )
        if checkpoint is None and not random:
            raise ConfigError(
                'it is missing',
                key='kd.teacher.checkpoint',
                fix="Name a file, a URL or 'zoo'; a teacher with random weights must be asked "
                'for: checkpoint=None, random=True.',
            )
        if checkpoint is not None and random:
            raise ConfigError(
                'it contradicts random=True',
                key='kd.teacher.checkpoint',
                got=checkpoint,
                fix='Drop one of them.',
            )
        for name, value in (('container', container), ('prefix', prefix)):
            if value is not None and (random or not isinstance(value, str) or not value):
                raise ConfigError(
                    'random=True has no checkpoint' if random else '',
                    key=f'kd.teacher.{name}',
                    got=value,
                    expected='' if random else 'a name in a checkpoint',
                    fix='Drop it.' if random else '',
                )
        if dtype is not None and not isinstance(getattr(torch, dtype, None), torch.dtype):
            raise ConfigError(
                key='kd.teacher.dtype', got=dtype, expected='a torch dtype, such as bfloat16'
            )
        with seeded(RANDOM) if random else nullcontext():
            with weights_only(unsafe):
                self.module = self._build(config, model)
            self.source, content = 'random weights', None
            if checkpoint is not None:
                self.source, content = self._read(config, checkpoint, unsafe)
                what = f'kd.teacher.checkpoint: {self.source!r}'
                state = state_dict_of(content, what, container, prefix, 'kd.teacher.container')
                with about('kd.teacher.checkpoint', self.source):
                    load_strictly(self.module, state, '')
            #: Everything with weights.
            self.parts = [self.module, *self._further_parts(content)]
        self.dtype = getattr(torch, dtype) if dtype else None
        self.channels_last = channels_last
        for part in self.parts:
            part.eval().requires_grad_(False).to(self.dtype)
            if channels_last:
                part.to(memory_format=torch.channels_last)
        self.compile = compile
        self._taps: Taps | None = None
        self._forward = torch.compile(self.module) if compile else self.module
        #: Of its forward pass: ``'loss'`` where only that reaches the taps.
        self.mode = 'tensor'

    def connect(
        self,
        student: nn.Module,
        paths: Mapping[str, str],
        view: ViewOf | None = None,
        moves: bool = False,
    ) -> None:
        """Set the taps to read, the student whose inputs are converted, and the own view of them.

        Args:
            student: With its data preprocessor.
            paths: Tap name to path.
            view: Of the batch, None for the batch as it is.
            moves: Whether the view moves the content, see `InputAdapter`.
        """
        self._taps = Taps(self.module, paths, 'teacher')
        self._adapt = InputAdapter(
            student.get_submodule('data_preprocessor'),
            self.module.get_submodule('data_preprocessor'),
            view,
            moves,
        )
        if not self._adapt.same:
            print_log(
                "kd.teacher: its preprocessing differs from the student's; inputs are converted",
                'current',
            )

    @torch.no_grad()
    def __call__(self, inputs: Any, samples: Sequence[Any] | None = None) -> dict[str, Any]:
        """Tap name to activation, for a batch in the student's preprocessing.

        Only the part of the network up to the last tap runs, without losses and auxiliary heads.
        """
        assert self._taps is not None, 'connect() comes first'
        inputs = self._prepare(inputs, samples)
        stop = bool(self._taps.calls) and not self.compile  # it is known how often modules run
        recording = self._taps.record(stop, compiled=self.compile)
        with self._precision(inputs), recording as found:
            self._forward(inputs, samples, mode=self.mode)
        return found

    @torch.no_grad()
    def whole_pass(
        self, inputs: Any, samples: Sequence[Any], mode: str, view: ViewOf | None = None
    ) -> dict[str, Any]:
        """The taps of a whole pass, as far as it comes once all taps were read.

        Args:
            inputs: In the student's preprocessing.
            samples: Data samples.
            mode: Of the forward pass.
            view: In place of the own one, for images that no data set gave.
        """
        assert self._taps is not None, 'connect() comes first'
        inputs = self._prepare(inputs, samples, view)
        with self._precision(inputs), self._taps.record(tolerant=True) as found:
            self.module(inputs, samples, mode=mode)
        return found

    def apply(self, function: Any) -> None:
        """Follow ``student.to(...)``, ``.cuda()`` and the like."""
        for part in self.parts:
            part._apply(function).to(self.dtype)

    def fingerprint(self) -> str:
        """SHA-256 of all weights and buffers."""
        return fingerprint(value for part in self.parts for value in part.state_dict().values())

    def _prepare(
        self, inputs: Any, samples: Sequence[Any] | None, view: ViewOf | None = None
    ) -> Any:
        """Bring a batch into the teacher's own view, preprocessing, dtype and memory format."""
        if not self._adapt.identity:
            inputs = self._adapt(inputs, samples, view)
        if isinstance(inputs, Tensor):
            inputs = inputs.to(self.dtype) if self.dtype else inputs
            if self.channels_last:
                inputs = inputs.contiguous(memory_format=torch.channels_last)
        return inputs

    def _precision(self, inputs: Any) -> Any:
        """Its own dtype, if it has one, overrides the student's autocast."""
        if self.dtype is None or not isinstance(inputs, Tensor):
            return nullcontext()
        return torch.autocast(inputs.device.type, enabled=False)

    @staticmethod
    def _build(config: str | None, model: Mapping[str, Any] | None) -> nn.Module:
        spec, scope = load_model_config(config) if config else (dict(model or {}), None)
        if scope is not None:
            spec['_scope_'] = scope
        return ROOT_MODELS.build(without_pretrained(spec))  # its weights are the checkpoint's

    def _further_parts(self, content: Mapping[str, Any] | None) -> Sequence[nn.Module]:
        """Build further modules of a subclass; ``content`` is its file's, if it has one."""
        return ()

    @staticmethod
    def _read(config: str | None, checkpoint: str, unsafe: bool) -> tuple[str, dict[str, Any]]:
        if checkpoint == 'zoo':
            if config is None:
                raise ConfigError(
                    'there is no config of a base library',
                    key='kd.teacher.checkpoint',
                    got=checkpoint,
                    fix='Give the config in place of model, or the path or URL of a checkpoint.',
                )
            try:
                checkpoint = zoo_checkpoint(config)
            except (ValueError, OSError, ImportError) as error:
                raise ConfigError(
                    str(error), key='kd.teacher.checkpoint', got=checkpoint
                ) from error
        return checkpoint, read_checkpoint(checkpoint, unsafe=unsafe, what='kd.teacher.checkpoint')
