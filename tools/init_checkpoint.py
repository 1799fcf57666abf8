#!/usr/bin/env python3
"""Write the initial weights of a config's model under a seed, without anything pretrained.

    python tools/init_checkpoint.py CONFIG --seed 0 --out init.pth

Every arm of a comparison can start from this file; see ``docs/convert.md``.
"""

import kdmm  # noqa: F401  (registers everything)
from kdmm.transfer.cli import fresh_command

if __name__ == '__main__':
    fresh_command()
