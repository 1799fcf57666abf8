"""Resumable epoch-based training loop, and checks of training loops."""

from collections.abc import Iterable, Iterator, Sized
from itertools import islice
from logging import WARNING
from typing import Any

from mmengine.dataset import InfiniteSampler
from mmengine.dist import all_gather_object, get_world_size
from mmengine.logging import print_log
from mmengine.registry import LOOPS as ROOT_LOOPS
from mmengine.runner import EpochBasedTrainLoop as BaseLoop
from torch.utils.data import DataLoader

from kdmm.errors import ConfigError
from kdmm.hooks.interrupt import BATCHES_DONE
from kdmm.registry import LOOPS


@LOOPS.register_module()
class EpochBasedTrainLoop(BaseLoop):
    """MMEngine's loop with a position within the epoch.

    The position is in the message hub and thus in every checkpoint. A resumed run skips the batches
    of its first epoch that were trained, without loading them. Data order, schedules and logged
    numbers equal those of a run without interruption.
    """

    def __init__(self, runner: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(runner, *args, **kwargs)
        self._store(0)

    def run_epoch(self) -> None:
        """Train one epoch, or its remaining batches."""
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        done = self._done()
        for index, batch in enumerate(skip_batches(self.dataloader, done), start=done):
            self._store(index + 1)
            self.run_iter(index, batch)
        self._store(0)
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1

    def _done(self) -> int:
        """Number of this epoch's batches that were trained before the run was resumed."""
        done, length = self.runner.message_hub.runtime_info.get(BATCHES_DONE, (0, 1))
        now = len(self.dataloader)
        if done and length != now:
            print_log(
                f'The resumed run was {done} batches into an epoch of {length}; an epoch has {now} '
                f'batches now, so this one begins at batch {done * now // length + 1}, and some '
                'images may be left out of it or seen twice',
                'current',
                WARNING,
            )
            done = done * now // length
        return done

    def _store(self, done: int) -> None:
        self.runner.message_hub.update_info(BATCHES_DONE, (done, len(self.dataloader)))


def with_resumable_epochs(loop: Any) -> Any:
    """Replace MMEngine's epoch-based loop by the resumable one in the config of a training loop."""
    if not isinstance(loop, dict) or ('type' in loop) == ('by_epoch' in loop):
        return loop
    kind = loop.get('type')
    kind = ROOT_LOOPS.get(kind) if isinstance(kind, str) else kind
    if kind is BaseLoop or loop.get('by_epoch'):
        rest = {key: value for key, value in loop.items() if key not in ('type', 'by_epoch')}
        return dict(rest, type=EpochBasedTrainLoop)
    return loop


def check_not_empty(loop: Any) -> None:
    """Refuse a training loop without iterations or batches.

    Raises:
        ConfigError: If it has no iteration, or its loader no batch.
    """
    loader = loop.dataloader
    if isinstance(loader, DataLoader) and isinstance(loader.dataset, Sized):
        sampler: Any = getattr(loader.sampler, 'sampler', loader.sampler)
        size = len(loader.dataset)
        if not len(loader) and not (isinstance(sampler, InfiniteSampler) and size):
            raise ConfigError(
                f'no batch, so nothing would be trained: the data set has {size} samples '
                f'({len(sampler)} for each of {get_world_size()} process(es)), '
                f'batch_size={loader.batch_size}, drop_last={loader.drop_last}',
                key='train_dataloader',
                fix='Lower batch_size, leave drop_last out, or look at the data set.',
            )
        if isinstance(loop, BaseLoop):
            _check_equal_lengths(loader)
    for name in ('max_epochs', 'max_iters'):
        if getattr(loop, name, 1) <= 0:
            raise ConfigError(
                'nothing would be trained',
                key=f'train_cfg.{name}',
                got=getattr(loop, name),
                expected='at least 1',
            )


def _check_equal_lengths(loader: DataLoader) -> None:
    """Refuse epochs of different lengths, in which a rank would wait for others without end."""
    lengths = all_gather_object(len(loader))
    if len(set(lengths)) > 1:
        raise ConfigError(
            f'the ranks have {lengths} batches an epoch, so that those with more would wait for '
            'the others without end',
            key='train_dataloader',
            fix='Let the sampler deal equally many samples (round_up=True of DefaultSampler), or '
            'change batch_size or drop_last.',
        )


def check_val_interval(loop: Any) -> None:
    """Refuse an interval of validation below 1, by which MMEngine would divide."""
    interval = getattr(loop, 'val_interval', 1)
    if not isinstance(interval, int) or interval < 1:
        raise ConfigError(
            key='train_cfg.val_interval',
            got=interval,
            expected='a whole number from 1',
            fix='To train without validation leave val_dataloader, val_cfg and val_evaluator out.',
        )


def is_over(loop: Any) -> bool:
    """Return True if a training loop has nothing left to do."""
    if isinstance(loop, BaseLoop):
        return loop.epoch >= loop.max_epochs
    return loop.iter >= loop.max_iters


def skip_batches(loader: Any, done: int) -> Iterable[Any]:
    """Iterate over one pass of a loader without its first ``done`` batches.

    Only the indices of skipped batches are drawn. A loader without a batch sampler (single samples,
    an iterable data set) loads and drops them.
    """
    batch_sampler = getattr(loader, 'batch_sampler', None)
    if not done:
        return loader
    if batch_sampler is None:
        return islice(loader, done, None)
    object.__setattr__(
        loader, 'batch_sampler', _SkippingBatchSampler(batch_sampler, done)
    )  # it forbids setattr
    try:
        return iter(loader)
    finally:
        object.__setattr__(loader, 'batch_sampler', batch_sampler)


class _SkippingBatchSampler:
    """Batch sampler whose first pass skips ``done`` batches; later passes are complete.

    Persistent workers keep it for all passes.
    """

    def __init__(self, batch_sampler: Any, done: int) -> None:
        self._batch_sampler, self._left = batch_sampler, done

    def __iter__(self) -> Iterator[list[int]]:
        done, self._left = self._left, 0  # not before the first batch is asked for
        yield from islice(self._batch_sampler, done, None)

    def __len__(self) -> int:
        return len(self._batch_sampler)
