#!/usr/bin/env python3
"""Evaluate a checkpoint with a config of kdmm or of a base library; ``--help`` lists the flags."""

import kdmm  # noqa: F401  (registers everything)
from kdmm.engine.cli import test

if __name__ == '__main__':
    test()
