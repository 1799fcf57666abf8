"""One thread and one seed for every test; kdmm first, since it serves mmcv's operators."""

import kdmm  # noqa: F401
from tests.distillers.conftest import one_thread_one_seed

__all__ = ['one_thread_one_seed']
