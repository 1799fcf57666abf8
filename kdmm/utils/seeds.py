"""Random numbers that depend on a given seed alone."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


@contextmanager
def seeded(entropy: tuple[int, ...]) -> Iterator[None]:
    """Seed Python, NumPy and torch (CPU) inside, and restore their states afterwards."""
    states = random_states()
    words = np.random.SeedSequence(entropy).generate_state(3)
    random.seed(int(words[0]))
    np.random.seed(int(words[1]))
    torch.default_generator.manual_seed(int(words[2]))
    try:
        yield
    finally:
        set_random_states(states)


def random_states() -> tuple[Any, Any, Any]:
    """Return the states of Python's, NumPy's and torch's (CPU) generators."""
    return random.getstate(), np.random.get_state(), torch.get_rng_state()


def set_random_states(states: tuple[Any, Any, Any]) -> None:
    """Set the states that `random_states` returned."""
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])
