"""A checkpoint hook that deletes nothing before the new file stands."""

import os
from typing import Any

from mmengine.fileio import LocalBackend
from mmengine.fileio.backends import register_backend
from mmengine.hooks import CheckpointHook as BaseCheckpointHook

from kdmm.registry import HOOKS


class AtomicLocalBackend(LocalBackend):
    """Writes to a temporary name beside the target, syncs, renames."""

    def put(self, obj: bytes, filepath: Any) -> None:
        """Write ``obj``; on any failure ``filepath`` is what it was before."""
        target = os.fspath(filepath)
        os.makedirs(os.path.dirname(target) or '.', exist_ok=True)
        temporary = f'{target}.part'
        try:
            with open(temporary, 'wb') as file:
                file.write(obj)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
        except BaseException:
            if os.path.exists(temporary):
                os.remove(temporary)
            raise


ATOMIC = 'kdmm_atomic'
register_backend(ATOMIC, AtomicLocalBackend, force=True)


class _Deferred:
    """A file backend whose removals wait."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self._waiting: list[tuple[str, Any]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def remove(self, path: Any) -> None:
        self._waiting.append(('remove', path))

    def rmtree(self, path: Any) -> None:
        self._waiting.append(('rmtree', path))

    def flush(self, written: set[str]) -> None:
        for action, path in self._waiting:
            if os.fspath(path) in written:  # a constant file name: it is the new file
                continue
            getattr(self._backend, action)(path)


@HOOKS.register_module()
class CheckpointHook(BaseCheckpointHook):
    """MMEngine's hook, except that old files go after the new one is written, not before.

    With ``max_keep_ckpts=1`` and a full disk, the base hook has already deleted the only
    checkpoint when it fails.
    """

    def _save_checkpoint_with_step(self, runner: Any, step: int, meta: dict[str, Any]) -> None:
        with _DeferredRemovals(self):
            super()._save_checkpoint_with_step(runner, step, meta)

    def _save_best_checkpoint(self, runner: Any, metrics: dict[str, float]) -> None:
        with _DeferredRemovals(self):
            super()._save_best_checkpoint(runner, metrics)


class _DeferredRemovals:
    """Within it the hook's removals wait; they are carried out if nothing went wrong."""

    def __init__(self, hook: BaseCheckpointHook) -> None:
        self._hook = hook

    def __enter__(self) -> None:
        self._backend = self._hook.file_backend
        self._deferred = _Deferred(self._backend)
        self._hook.file_backend = self._deferred

    def __exit__(self, kind: Any, *_: Any) -> None:
        self._hook.file_backend = self._backend
        if kind is None:
            best = getattr(self._hook, 'best_ckpt_path_dict', {}).values()
            newest = {self._hook.last_ckpt, getattr(self._hook, 'best_ckpt_path', None), *best}
            self._deferred.flush({os.fspath(path) for path in newest if path})
