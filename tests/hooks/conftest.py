"""As for the engine: hooks are tried in real runs."""

from tests.engine.conftest import one_thread_one_seed, quick_runner  # noqa: F401
