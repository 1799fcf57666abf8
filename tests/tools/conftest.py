"""Puts the benchmark's package and the oracles on the path."""

import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]
for _path in (str(_ROOT / 'tools'), str(_ROOT / 'tests/parity')):
    if _path not in sys.path:
        sys.path.append(_path)  # behind the standard library, where profile.py has a namesake

from tests.e2e.conftest import job, refused_by  # noqa: E402, F401
