"""One thread and one seed for every test."""

from tests.distillers.conftest import one_thread_one_seed

__all__ = ['one_thread_one_seed']
