import random
from types import SimpleNamespace

import numpy as np
import torch

from kdmm.hooks import StepSeedHook


def draws(**changes: int) -> tuple[float, float, float]:
    fake = SimpleNamespace(**{**dict(seed=1, iter=5, rank=0), **changes})
    random.random(), np.random.rand(), torch.rand(3)  # whatever was drawn before
    StepSeedHook().before_train_iter(fake, 0)
    return random.random(), float(np.random.rand()), float(torch.rand(1))


def test_the_same_step_draws_the_same():
    assert draws() == draws()


def test_seed_iteration_and_rank_count_for_every_generator():
    seen = [draws(), draws(seed=2), draws(iter=6), draws(rank=1), draws(seed=5, iter=1)]
    for generator in zip(*seen, strict=True):
        assert len(set(generator)) == len(seen)


def test_it_runs_before_other_hooks():
    assert StepSeedHook.priority == 'VERY_HIGH'
