"""Puts the oracles on the path, however the tests are collected."""

import sys
from pathlib import Path

_PARITY = str(Path(__file__).resolve().parents[1] / 'parity')
if _PARITY not in sys.path:
    sys.path.insert(0, _PARITY)
