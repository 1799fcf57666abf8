"""Make the randomness of a step a function of seed, iteration and rank."""

import random
from typing import Any

import numpy as np
import torch
from mmengine.hooks import Hook

from kdmm.datasets.seeded import seed_loader, stream_of
from kdmm.datasets.workers import keep_through_signals
from kdmm.registry import HOOKS


@HOOKS.register_module()
class StepSeedHook(Hook):
    """Seeds Python, NumPy and torch before each training step.

    Dropout and the like then need no generator state in a checkpoint, and whatever validation draws
    in between does not matter: a resumed run continues to the bit. The data pipeline has its own
    seeds, see `kdmm.datasets.SeededDataset`.
    """

    priority = 'VERY_HIGH'

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Seed from (seed, iteration, rank)."""
        entropy = np.random.SeedSequence((runner.seed, runner.iter, runner.rank))
        seed = int(entropy.generate_state(1)[0])
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)


@HOOKS.register_module()
class StreamSeedHook(Hook):
    """Seeds the training loader that another hook has put in the place of the run's own.

    MMPose's ``YOLOXPoseModeSwitchHook`` builds one for the last epochs. Its stream has the run's
    seed, not one of its own, and goes on where that of the former loader is.
    """

    priority = 'LOWEST'  # after whatever builds one

    def before_train(self, runner: Any) -> None:
        """Seed the loader that the run begins with."""
        self._seed(runner, runner.iter)

    def before_train_epoch(self, runner: Any) -> None:
        """Seed the loader of the pass that begins."""
        self._seed(runner, runner.iter)

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Seed the loader of the next batch in a loop that counts iterations."""
        self._seed(runner, runner.iter + 1)

    @staticmethod
    def _seed(runner: Any, done: int) -> None:
        """Seed the loader, unless it is, for a run that has ``done`` iterations behind it."""
        loop = runner.train_loop
        if stream_of(loop.dataloader) is not None:
            return
        started = loop.dataloader._iterator
        if started is not None:  # workers that persist have the data set without its seeds
            started._shutdown_workers()
            loop.dataloader._iterator = None
        stream = stream_of(seed_loader(loop.dataloader, runner.seed))
        assert stream is not None
        if not hasattr(loop, 'dataloader_iterator'):
            stream.set_epoch(runner.epoch)
        elif hasattr(stream, 'skip') and loop.dataloader.batch_size:
            stream.skip(done * loop.dataloader.batch_size)
        restart_stream(loop)
        runner.logger.info(
            f'train_dataloader: replaced by a hook; its stream is seeded with {runner.seed}'
        )


def restart_stream(loop: Any) -> None:
    """Let a loop that counts iterations draw from its loader as it is now."""
    if hasattr(loop, 'dataloader_iterator'):
        keep_through_signals(loop.dataloader)  # upstream's iterator starts the workers at once
        loop.dataloader_iterator = type(loop.dataloader_iterator)(loop.dataloader)
