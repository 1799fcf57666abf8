"""Puts the oracles on the path."""

import sys
from pathlib import Path

_PARITY = str(Path(__file__).resolve().parents[1] / 'parity')
if _PARITY not in sys.path:
    sys.path.append(_PARITY)

from tests.e2e.conftest import job, refused_by  # noqa: E402, F401
