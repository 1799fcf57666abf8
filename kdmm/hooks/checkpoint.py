"""Checkpoints: written whole, and agreed on by all ranks; nothing is deleted before they stand."""

import os
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mmengine.dist import all_gather_object, is_main_process, master_only
from mmengine.fileio import LocalBackend
from mmengine.fileio.backends import register_backend
from mmengine.hooks import CheckpointHook as BaseCheckpointHook
from mmengine.optim import OptimWrapper, OptimWrapperDict

from kdmm.errors import TrainingError
from kdmm.registry import HOOKS
from kdmm.utils.files import write_file

#: The file of a work dir that names the checkpoint to go on from, as MMEngine calls it.
LAST = 'last_checkpoint'


class AtomicLocalBackend(LocalBackend):
    """Writes to a temporary name beside the target, syncs, renames."""

    def put(self, obj: bytes, filepath: Any) -> None:
        """Write ``obj``; on any failure ``filepath`` is what it was before."""
        write_file(filepath, obj)


ATOMIC = 'kdmm_atomic'
register_backend(ATOMIC, AtomicLocalBackend, force=True)


@master_only
def remember(work_dir: str, checkpoint: str) -> None:
    """Name ``checkpoint`` as the one to go on from."""
    write_file(os.path.join(work_dir, LAST), checkpoint)


def check_state(runner: Any, filename: str) -> None:
    """Ask the hooks whether the state of the run may be written; they refuse in ``before_writing``.

    Raises:
        TrainingError: As a hook does; it also names the checkpoint that stands.
    """
    try:
        runner.call_hook('before_writing')
    except TrainingError as error:
        stands = previous_checkpoint(runner.work_dir, filename)
        raise type(error)(f'{error}: {filename} is not written{stands}') from error


def agree_to_save(runner: Any, filename: str) -> None:
    """`check_state` on all ranks; if one refuses, all do, and none waits for another."""
    refusal = None
    try:
        check_state(runner, filename)
    except TrainingError as error:
        refusal = error
    for found in all_gather_object(refusal):
        if found is not None:
            raise found


def previous_checkpoint(work_dir: str, failed: str) -> str:
    """Which checkpoint of the work dir still stands, as the end of an error message."""
    name = os.path.basename(str(failed))
    paths = [str(path) for path in Path(work_dir).glob('*.pth') if path.name != name]
    if not paths:
        return '. There is no earlier checkpoint in the work dir'
    return f'. The previous checkpoint stands: {max(paths, key=os.path.getmtime)}'


def has_stepped(optim_wrapper: Any) -> bool:
    """Whether no gradients wait for the next step of an optimizer."""
    several = isinstance(optim_wrapper, OptimWrapperDict)
    wrappers = optim_wrapper.optim_wrappers.values() if several else [optim_wrapper]
    return all(one.should_update() for one in wrappers if isinstance(one, OptimWrapper))


@HOOKS.register_module()
class CheckpointHook(BaseCheckpointHook):
    """MMEngine's hook, except that it loses nothing.

    Old files go after the new one is written, not before: with ``max_keep_ckpts=1`` and a full disk
    the base hook has already deleted the only checkpoint when it fails. ``last_checkpoint`` is
    written like every other file. Files of another work dir, from which this one was copied or its
    run resumed, are never touched.
    """

    file_backend: Any
    keep_ckpt_ids: deque[int]
    best_ckpt_path: str | None
    best_ckpt_path_dict: dict[str, str | None]

    def before_train(self, runner: Any) -> None:
        """As the base; the best file is looked for in this run's folder."""
        super().before_train(runner)
        if not self.save_best:
            return
        if hasattr(self, 'best_ckpt_path_dict'):
            best = {f'best_ckpt_{key}': path for key, path in self.best_ckpt_path_dict.items()}
            self.best_ckpt_path_dict = {
                key: self._here(path) for key, path in self.best_ckpt_path_dict.items()
            }
        else:
            best = dict(best_ckpt=self.best_ckpt_path)
            self.best_ckpt_path = self._here(self.best_ckpt_path)
        for name, path in best.items():
            if path:
                runner.message_hub.update_info(name, self._here(path))

    def _here(self, path: str | None) -> str | None:
        """The file of the same name in the folder of this run."""
        if path is None:
            return None
        return self.file_backend.join_path(self.out_dir, os.path.basename(path))

    def _save_checkpoint_with_step(self, runner: Any, step: int, meta: dict[str, Any]) -> None:
        """Write, name the file as the last, then delete those over the limit."""
        name = self.filename_tmpl.format(step)
        agree_to_save(runner, name)
        if not has_stepped(runner.optim_wrapper):
            runner.logger.warning(
                f'{name} is written between two steps of the optimizer: the gradients that '
                'accumulated so far are not in it, and a run resumed from it is not exact. Save at '
                'multiples of accumulative_counts'
            )
        outdated = self._rotate(runner, step)
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        runner.save_checkpoint(
            self.out_dir,
            name,
            self.file_client_args,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
            **self.args,
        )
        remember(runner.work_dir, self.last_ckpt)
        if is_main_process():
            paths = [self.filename_tmpl.format(old) for old in outdated]
            self._delete(self.file_backend.join_path(self.out_dir, path) for path in paths)

    def _rotate(self, runner: Any, step: int) -> list[int]:
        """Enter ``step`` in the list of kept files; which steps are over the limit now."""
        if self.max_keep_ckpts <= 0:
            return []
        kept = [*(old for old in self.keep_ckpt_ids if old != step), step]
        self.keep_ckpt_ids = deque(kept[-self.max_keep_ckpts :], self.max_keep_ckpts)
        runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))
        return kept[: -self.max_keep_ckpts]

    def _save_best_checkpoint(self, runner: Any, metrics: dict[str, float]) -> None:
        if not self.save_best:
            return
        agree_to_save(runner, 'the best checkpoint')
        backend, deferred = self.file_backend, _Deferred(self.file_backend)
        self.file_backend = deferred
        try:
            super()._save_best_checkpoint(runner, metrics)
        finally:
            self.file_backend = backend
        self._delete(deferred.waiting)

    def _delete(self, paths: Iterable[Any]) -> None:
        """Remove files (DeepSpeed's are folders), but those that were written just now."""
        best = getattr(self, 'best_ckpt_path_dict', {}).values()
        newest = {self.last_ckpt, getattr(self, 'best_ckpt_path', None), *best}
        for path in map(os.fspath, paths):
            if path in newest:  # a constant file name: it is the new file
                continue
            if self.file_backend.isfile(path):
                self.file_backend.remove(path)
            elif self.file_backend.isdir(path):
                self.file_backend.rmtree(path)


class _Deferred:
    """A file backend whose removals wait."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self.waiting: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def remove(self, path: Any) -> None:
        self.waiting.append(path)

    def rmtree(self, path: Any) -> None:
        self.waiting.append(path)
