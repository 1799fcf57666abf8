"""MMEngine's Runner for configs that may have a ``kd`` section."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.config import Config
from mmengine.hooks import EMAHook
from mmengine.model import is_model_wrapper, revert_sync_batchnorm
from mmengine.runner import BaseLoop
from mmengine.runner import Runner as BaseRunner
from mmengine.runner.checkpoint import load_state_dict
from torch import Tensor, nn
from torch.utils.data import DataLoader

from kdmm.checkpoints import (
    load_strictly,
    read_checkpoint,
    refuse_misfits,
    state_dict_of,
    weights_only,
)
from kdmm.config import image_size, model_config, section_of
from kdmm.datasets.annotations import number_sources
from kdmm.datasets.class_sampler import check_batch_size
from kdmm.datasets.coco_files import check_class_names, check_coco_file
from kdmm.datasets.label_maps import add_label_map_checks
from kdmm.datasets.reading import name_files_in_errors
from kdmm.datasets.seeded import seed_loader, stream_of
from kdmm.datasets.workers import SignalSafeLoader, keep_through_signals
from kdmm.datasets.wrappers import leaf_datasets
from kdmm.distillers import Objective
from kdmm.distillers.objective import set_aside
from kdmm.engine.build_errors import CheckedRunner, building, first_step
from kdmm.engine.launch import start_process_group
from kdmm.engine.logs import LogErrorHandler
from kdmm.engine.loops import check_not_empty, check_val_interval, is_over, with_resumable_epochs
from kdmm.engine.work_dir import exclusive_run, latest_checkpoint, make_folder, remove_partial_files
from kdmm.errors import ConfigError, about
from kdmm.hooks.buffers import with_common_buffers
from kdmm.hooks.checkpoint import ATOMIC, check_state, previous_checkpoint
from kdmm.hooks.ownership import PREFIX, objective_in, pop_prefix
from kdmm.hooks.reproducible import restart_stream
from kdmm.hooks.summary import FinalValidationHook, lacks_final_validation
from kdmm.registry import RUNNERS
from kdmm.utils.models import unwrapped


class CheckpointError(OSError):
    """A checkpoint could not be written."""


@RUNNERS.register_module()
class Runner(CheckedRunner):
    """Runs a base library's config, and its ``kd`` section if it has one.

    It keeps the config as given and writes it into the work dir, so that file works with the base
    library's own tools. Without the section training is the base library's to
    the bit; with it the data pipeline and the steps are seeded so that a resumed run continues to
    the bit (``reproducible=False`` in the config leaves that out, ``True`` asks for it without
    ``kd``).
    """

    _load_from: str | None

    @property
    def _kd(self) -> Objective | None:
        """The objective of the run; None in plain training."""
        return objective_in(self.model)

    @property
    def _reproducible(self) -> bool:
        return bool(self.cfg.get('reproducible', self._kd is not None))

    @property
    def _unsafe(self) -> bool:
        """True if files may hold more than weights."""
        return bool(self.cfg.get('unsafe_checkpoint', False))

    @classmethod
    def from_cfg(cls, cfg: Any) -> BaseRunner:
        """As the base, after a check of the work dir.

        Raises:
            ConfigError: For what cannot be built, and a work dir that cannot be written.
        """
        if isinstance(cfg.get('work_dir'), str):
            make_folder(cfg['work_dir'], 'work_dir')
        return super().from_cfg(cfg)

    def setup_env(self, env_cfg: dict[str, Any]) -> None:
        """As the base, after opening gloo where there is no GPU."""
        start_process_group(self.launcher, env_cfg.get('dist_cfg'))
        super().setup_env(env_cfg)

    @classmethod
    def build_dataloader(  # type: ignore[override]
        cls, dataloader: Any, *args: Any, **kwargs: Any
    ) -> DataLoader:
        """As the base, after checks of the data set and the batch size.

        Its workers ignore signals to the whole process group. Joined training sets number their
        images differently.
        """
        loader = super().build_dataloader(dataloader, *args, **kwargs)
        if isinstance(loader.dataset, str | int | None):
            raise TypeError('dataset is no data set')
        keep_through_signals(loader)
        check_batch_size(loader)
        name_files_in_errors(loader.dataset)
        leaves = list(leaf_datasets(loader.dataset))
        for dataset in leaves:
            check_coco_file(getattr(dataset, 'ann_file', None))
            check_class_names(dataset)
        if not any(getattr(dataset, 'test_mode', False) for dataset in leaves):
            number_sources(loader.dataset)
        add_label_map_checks(loader.dataset)
        return loader

    def build_model(self, model: Any) -> nn.Module:
        """Build the student, distilled if the config says so; files are read weights-only."""
        with weights_only(self._unsafe):
            return super().build_model(
                model_config(model, section_of(self.cfg), image_size(self.cfg))
            )

    def _init_model_weights(self) -> None:
        """As the base; files that ``init_cfg`` names are read weights-only.

        The base sends all ranks the first one's state. It can send tensors only, and what else
        losses have in theirs (`torch.nn.Module.get_extra_state`) is equal on all ranks.
        """
        with weights_only(self._unsafe), _tensors_only(unwrapped(self.model)):
            super()._init_model_weights()

    def wrap_model(self, model_wrapper_cfg: dict[str, Any] | None, model: nn.Module) -> nn.Module:
        """As the base; on CPU without SyncBN and without device ids."""
        if self.distributed and not torch.cuda.is_available() and not is_model_wrapper(model):
            model = revert_sync_batchnorm(model)
            model_wrapper_cfg = {
                'type': 'MMDistributedDataParallel',
                'broadcast_buffers': False,
                'find_unused_parameters': self.cfg.get('find_unused_parameters', False),
                **(model_wrapper_cfg or {}),
                'device_ids': None,
            }
        return super().wrap_model(model_wrapper_cfg, model)

    def register_hooks(self, default_hooks: Any = None, custom_hooks: Any = None) -> None:
        """The config's hooks, then kdmm's."""
        default_hooks = {key: hook for key, hook in (default_hooks or {}).items()}
        checkpoint = default_hooks.get('checkpoint', dict(type='CheckpointHook', interval=1))
        _check_numbers('default_hooks', default_hooks, checkpoint=('interval', 'max_keep_ckpts'))
        _check_numbers('default_hooks', default_hooks, logger=('interval',))
        if isinstance(checkpoint, dict) and checkpoint.get('type') == 'CheckpointHook':
            default_hooks['checkpoint'] = {**checkpoint, 'type': 'kdmm.CheckpointHook'}
        super().register_hooks(default_hooks, custom_hooks)
        names = ['NonFiniteLossHook', 'LabelRangeHook', 'RunSummaryHook', 'InterruptHook']
        names += ['StepSeedHook', 'StreamSeedHook'] * self._reproducible
        for name in names:
            self.register_hook(dict(type=f'kdmm.{name}'))
        if self._kd is not None:
            self._register_hooks_of(self._kd)

    def _register_hooks_of(self, objective: Objective) -> None:
        averaged = objective.averages and any(isinstance(hook, EMAHook) for hook in self.hooks)
        ownership = dict(type='kdmm.OwnershipHook', **dict(priority='LOWEST') if averaged else {})
        hooks = [dict(type='kdmm.DistillHook'), ownership, dict(type='kdmm.RunningLineHook')]
        hooks.append(dict(type='kdmm.BuffersHook'))
        for hook in [*hooks, *objective.hooks]:
            self.register_hook(hook)

    def build_train_loop(self, loop: Any) -> BaseLoop:
        """As the base.

        The loader's stream is seeded, and epochs can be resumed. A loop that would train nothing
        is refused.
        """
        if self._reproducible and not isinstance(loop, BaseLoop):
            self._train_dataloader: Any = seed_loader(self._train_dataloader, self.seed)
        built = super().build_train_loop(with_resumable_epochs(loop))
        check_not_empty(built)
        check_val_interval(built)
        return built

    def train(self) -> nn.Module:
        """As the base; lock the work dir against other runs.

        Raises:
            ConfigError: If another run trains there, or there is nothing to train.
        """
        with (
            exclusive_run(self.work_dir),
            first_step(self),
            self._closing('_train_loop', '_val_loop'),
        ):
            remove_partial_files(self.work_dir, self.cfg)
            return super().train()

    def val(self) -> dict[str, float]:
        """As the base; close the workers at the end.

        Raises:
            ConfigError: For what the libraries raise in the first step.
        """
        with first_step(self), self._closing('_val_loop'):
            return super().val()

    def test(self) -> dict[str, float]:
        """As `val`."""
        with first_step(self), self._closing('_test_loop'):
            return super().test()

    @contextmanager
    def _closing(self, *loops: str) -> Iterator[None]:
        """Close the workers of these loops' loaders after the block."""
        try:
            yield
        finally:
            for name in loops:
                loader = getattr(getattr(self, name), 'dataloader', None)
                if isinstance(loader, SignalSafeLoader):
                    loader.close()

    def load_or_resume(self) -> None:
        """As the base; the latest checkpoint is looked for in this work dir alone."""
        if self._resume and self._load_from is None and not self._has_loaded:
            self._load_from = latest_checkpoint(self.work_dir, self.cfg)
            if self._load_from is None:
                self.logger.info(f'{self.work_dir} has no checkpoint: the run begins')
                return
        super().load_or_resume()
        loop = self._train_loop
        if self._resume and isinstance(loop, BaseLoop) and is_over(loop):
            done = f'The resumed run is finished, with {self.iter} iterations of {self.max_iters}: '
            if lacks_final_validation(self, str(self._load_from)):
                self.register_hook(FinalValidationHook())
                self.logger.warning(f'{done}only its last validation is left')
            else:
                self.logger.warning(f'{done}nothing is left to train, nor to validate')

    def resume(self, filename: str, *args: Any, **kwargs: Any) -> None:
        """As the base; the data stream takes the file's seed too.

        Raises:
            ConfigError: If the file is of another optimizer, as that of a distilled run may be.
        """
        try:
            super().resume(filename, *args, **kwargs)
        except ValueError as error:
            if 'state dict' not in str(error):
                raise
            raise ConfigError(
                'it is of a run with another optimizer, or with other parameters in it, as those '
                f'of a kd section ({error})',
                key='--resume',
                got=filename,
                fix=f'Resume it with the config of that run; {_anew(filename)}.',
            ) from error
        stream = stream_of(self.train_dataloader)
        if stream is not None:
            stream.reseed(self.seed)
            restart_stream(self.train_loop)  # upstream's has drawn from the old stream

    def load_checkpoint(
        self, filename: str, map_location: Any = 'cpu', strict: bool = False, revise_keys: Any = ()
    ) -> dict[str, Any]:
        """Load the student; refuse missing, unexpected and misshapen weights.

        ``strict_load=False`` in the config leaves that out for ``load_from``, as the base library
        does; it is the default without a ``kd`` section. A resumed run is always strict.

        Raises:
            ConfigError: Also for a missing or damaged file, then naming the latest good one.
        """
        try:
            checkpoint = read_checkpoint(filename, map_location, self._unsafe)
        except ConfigError as error:
            raise error.advised(self._describe_previous(filename)) from error.__cause__
        if self._resume:
            self._check_resumable(checkpoint, filename)
        self.call_hook('after_load_checkpoint', checkpoint=checkpoint)
        model = unwrapped(self.model)
        strict = self._resume or self.cfg.get('strict_load', self._kd is not None)
        # the hooks have restored the objective; the state has none of it
        with set_aside(model) as objective, about('checkpoint', str(filename)):
            state = state_dict_of(checkpoint, '')
            if self._resume:
                pop_prefix(state, PREFIX)  # what the hooks put there for each other
            if strict:
                load_strictly(model, state, '')
            else:
                if objective is not None:
                    refuse_misfits(model, state, '')
                load_state_dict(model, state, strict=False, logger='current')
        self._has_loaded = True
        self.logger.info(f'Load checkpoint from {filename}')
        return checkpoint

    def _describe_previous(self, failed: str) -> str:
        """Name the checkpoint that remains when one could not be written or read."""
        return previous_checkpoint(self.work_dir, str(failed), self.cfg)

    def _check_resumable(self, checkpoint: dict[str, Any], filename: str) -> None:
        """Refuse files that MMEngine cannot resume; warn of those without an optimizer's state."""
        meta = checkpoint.get('meta')
        place = isinstance(meta, dict) and {'epoch', 'iter'} <= meta.keys()
        if not place or 'message_hub' not in checkpoint:
            lacking = 'message_hub' if place else 'meta, with epoch and iter'
            raise ConfigError(
                f'it does not say where its run was (it has no {lacking})',
                key='--resume',
                got=filename,
                fix=f'Name another, or, {_anew(filename)}.',
            )
        if 'optimizer' not in checkpoint:
            self.logger.warning(
                f'{filename} holds no state of the optimizer: it begins anew, and the resumed run '
                'is not exact'
            )

    def build_logger(self, *args: Any, **kwargs: Any) -> Any:
        """As the base; the run continues where its file cannot be written."""
        logger = super().build_logger(*args, **kwargs)
        self._log_errors = LogErrorHandler(logger)
        self._log_errors.guard_files()
        return logger

    def build_visualizer(self, *args: Any, **kwargs: Any) -> Any:
        """As `build_logger`."""
        visualizer = super().build_visualizer(*args, **kwargs)
        self._log_errors.guard_backends(visualizer)
        return visualizer

    @with_common_buffers
    def save_checkpoint(
        self, out_dir: str, filename: str, *args: Any, backend_args: Any = None, **kwargs: Any
    ) -> None:
        """Write a checkpoint atomically; on failure name the previous one.

        Raises:
            TrainingError: If a weight is not finite, or a teacher has changed.
            OSError: If the file cannot be written; the message names the previous checkpoint.
        """
        check_state(self, filename)
        clients = (*args[:1], kwargs.get('file_client_args'), backend_args)
        if '://' not in str(out_dir) and all(client is None for client in clients):
            backend_args = dict(backend=ATOMIC)
        try:
            super().save_checkpoint(out_dir, filename, *args, backend_args=backend_args, **kwargs)
        except OSError as error:
            raise CheckpointError(
                f'could not write {os.path.join(out_dir, filename)}: {error}. '
                + self._describe_previous(os.path.join(out_dir, filename))
            ) from error


def _anew(filename: str) -> str:
    return f'to begin anew with its weights: load_from={filename}, without --resume'


@contextmanager
def _tensors_only(model: nn.Module) -> Iterator[None]:
    """Leave out of the model's ``state_dict``, inside, what is no tensor."""

    def leave_out(module: Any, state: dict[str, Any], *_: Any) -> None:
        for key in [key for key, value in state.items() if not isinstance(value, Tensor)]:
            del state[key]

    handle = model._register_state_dict_hook(leave_out)
    try:
        yield
    finally:
        handle.remove()


def _check_numbers(where: str, hooks: dict[str, Any], **arguments: tuple[str, ...]) -> None:
    """Refuse arguments of hooks that are no whole numbers."""
    for hook, names in arguments.items():
        given = hooks.get(hook)
        for name in names if isinstance(given, dict) else ():
            value = (given or {}).get(name, 1)
            if type(value) is not int:
                raise ConfigError(
                    key=f'{where}.{hook}.{name}',
                    got=value,
                    expected='a whole number, -1 for never',
                )


def build_runner(cfg: Config) -> BaseRunner:
    """Build the Runner for ``cfg``.

    Raises:
        ConfigError: If a ``kd`` section meets a runner type that kdmm does not serve.
    """
    kind = cfg.get('runner_type')
    if kind is None:
        return Runner.from_cfg(cfg)
    made = RUNNERS.get(kind)
    if section_of(cfg) and not (isinstance(made, type) and issubclass(made, BaseRunner)):
        raise ConfigError(
            'with a kd section',
            key='runner_type',
            got=kind,
            expected="MMEngine's Runner or a subclass of it",
            fix='Leave runner_type out, or the section.',
        )
    with building(cfg, 'runner_type'):
        return RUNNERS.build(cfg)
