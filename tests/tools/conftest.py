"""Puts the tools on the path."""

import sys
from pathlib import Path

_TOOLS = str(Path(__file__).resolve().parents[2] / 'tools')
if _TOOLS not in sys.path:
    sys.path.append(_TOOLS)  # behind the standard library, where profile.py has a namesake
