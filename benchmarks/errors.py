"""Error type of the benchmarks."""

import sys
from typing import NoReturn


def stop(message: str) -> NoReturn:
    """One line on the error stream, exit code 2."""
    print(f'kdmm: error: {message}', file=sys.stderr)
    raise SystemExit(2)
