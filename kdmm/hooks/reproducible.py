"""Make the randomness of a step a function of seed, iteration and rank."""

import random
from typing import Any

import numpy as np
import torch
from mmengine.hooks import Hook

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
