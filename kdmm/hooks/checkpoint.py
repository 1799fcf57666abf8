"""Checkpoints: written atomically, agreed on by all ranks, deleted after the next is written."""

import os
import re
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from mmengine.dist import all_gather_object, is_main_process, master_only
from mmengine.fileio import LocalBackend
from mmengine.fileio.backends import register_backend
from mmengine.hooks import CheckpointHook as BaseCheckpointHook
from mmengine.optim import OptimWrapper, OptimWrapperDict

from kdmm.checkpoints import ENTRY, read_checkpoint
from kdmm.errors import ConfigError, TrainingError
from kdmm.registry import HOOKS
from kdmm.utils.files import write_file

#: The file of a work dir that names the checkpoint to go on from, as MMEngine calls it.
LAST = 'last_checkpoint'


class AtomicLocalBackend(LocalBackend):
    """File backend that writes to a temporary name beside the target, syncs and renames."""

    def put(self, obj: bytes, filepath: Any) -> None:
        """Write ``obj``; on any failure ``filepath`` is what it was before."""
        write_file(filepath, obj)


ATOMIC = 'kdmm_atomic'
register_backend(ATOMIC, AtomicLocalBackend, force=True)


@master_only
def remember(work_dir: str, checkpoint: str) -> None:
    """Write ``checkpoint`` into ``last_checkpoint``, from which a run is resumed."""
    write_file(os.path.join(work_dir, LAST), checkpoint)


def check_state(runner: Any, filename: str) -> None:
    """Ask the hooks whether the state of the run may be written; they refuse in ``before_writing``.

    Raises:
        TrainingError: As a hook does; it also names the checkpoint that stands.
    """
    try:
        runner.call_hook('before_writing')
    except TrainingError as error:
        stands = previous_checkpoint(runner.work_dir, filename, runner.cfg)
        raise type(error)(f'{error}: {filename} is not written. {stands}') from error


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


def previous_checkpoint(work_dir: str, failed: str, cfg: Mapping[str, Any]) -> str:
    """Name the checkpoint that the run can be resumed from, as a sentence of an error message.

    Args:
        work_dir: Of the run.
        failed: The file that could not be written or read; a name means one in the run's folders.
        cfg: Of the run.
    """
    folders = checkpoint_folders(work_dir, cfg)
    without = {os.path.realpath(path) for path in (failed, *(f'{f}/{failed}' for f in folders))}
    path = None
    for named in last_named(folders, work_dir):
        with suppress(ConfigError):
            if os.path.realpath(named) not in without and resumed_at(named, cfg) is not None:
                path = named
    path = path or resumable(folders, cfg, without)[0]
    if path is None:
        return 'There is no earlier checkpoint in the work dir from which it can be resumed'
    return f'The previous checkpoint stands: {path}'


def checkpoint_folders(work_dir: str, cfg: Mapping[str, Any]) -> list[str]:
    """Folders of a run's checkpoints: the hook's if it has one, and the work dir."""
    work_dir = os.path.abspath(work_dir)
    hook = (cfg.get('default_hooks') or {}).get('checkpoint')
    out_dir = hook.get('out_dir') if isinstance(hook, Mapping) else None
    if out_dir is None or '://' in str(out_dir):
        return [work_dir]
    return [os.path.join(os.path.abspath(out_dir), os.path.basename(work_dir)), work_dir]


def record_of(work_dir: str) -> str:
    """Read ``last_checkpoint``; empty if it is missing or not a line of text."""
    try:
        text = Path(work_dir, LAST).read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ''
    return text if text.isprintable() else ''


def last_named(folders: Sequence[str], work_dir: str) -> list[str]:
    """The file that ``last_checkpoint`` names, wherever the work dir was when it was written.

    Of several of that name, the one in the folder that was meant comes first.
    """
    named = record_of(work_dir)
    meant, name = os.path.realpath(os.path.dirname(named)), os.path.basename(named)
    nearest_first = sorted(folders, key=lambda folder: os.path.realpath(folder) != meant)
    paths = [os.path.join(folder, name) for folder in nearest_first] if name else []
    return [path for path in paths if os.path.isfile(path)]


def resumed_at(path: str, cfg: Mapping[str, Any]) -> int | None:
    """Iteration at which a run with this config resumes from a checkpoint; None if it cannot.

    Raises:
        ConfigError: If it cannot be read.
    """
    content = read_checkpoint(path, unsafe=bool(cfg.get('unsafe_checkpoint', False)))
    needed = {'optimizer', 'meta', *[ENTRY] * bool(cfg.get('kd'))}
    return int(content['meta'].get('iter', 0)) if needed <= content.keys() else None


def resumable(
    folders: Sequence[str], cfg: Mapping[str, Any], without: Collection[str] = ()
) -> tuple[str | None, list[str]]:
    """The file of most iterations that resumes a run, and those that could not be read.

    Of the files that are called alike but for a number (``epoch_7.pth``) the highest is tried first
    and the first good one taken, so that few are read.

    Args:
        folders: Where to look.
        cfg: Of the run.
        without: Real paths of files that are left out.
    """
    series: dict[str, list[tuple[int, str]]] = {}
    for path in [str(path) for folder in folders for path in Path(folder).glob('*.pth')]:
        stem = Path(path).stem
        number = re.search(r'\d*$', stem)
        digits = number[0] if number else ''
        if os.path.realpath(path) not in without:
            series.setdefault(stem.removesuffix(digits), []).append((int(digits or 0), path))
    found: list[tuple[int, str]] = []
    damaged = []
    for files in series.values():
        for _, path in sorted(files, reverse=True):
            try:
                done = resumed_at(path, cfg)
            except ConfigError:
                damaged.append(path)
                continue
            if done is not None:
                found.append((done, path))
                break
    return max(found)[1] if found else None, damaged


def has_stepped(optim_wrapper: Any) -> bool:
    """Return whether the optimizer has used all accumulated gradients."""
    several = isinstance(optim_wrapper, OptimWrapperDict)
    wrappers = optim_wrapper.optim_wrappers.values() if several else [optim_wrapper]
    return all(one.should_update() for one in wrappers if isinstance(one, OptimWrapper))


@HOOKS.register_module()
class CheckpointHook(BaseCheckpointHook):
    """MMEngine's hook, which here deletes old files after the new one is written.

    With ``max_keep_ckpts=1`` and a full disk the base hook has already deleted the only checkpoint
    when it fails. ``last_checkpoint`` is
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
        """Add ``step`` to the kept files and return the steps that are over the limit."""
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
    """File backend that collects removals and does none."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self.waiting: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def remove(self, path: Any) -> None:
        self.waiting.append(path)

    def rmtree(self, path: Any) -> None:
        self.waiting.append(path)
