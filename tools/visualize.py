#!/usr/bin/env python3
r"""Draw what a pretext network makes of its puzzles: crop, puzzle, prediction, put together.

python tools/visualize.py configs/small/pose/pretrain.py work_dirs/pretrain/epoch_200.pth \
        --out sheet.png --num 6
"""

import kdmm  # noqa: F401  (registers everything)
from kdmm.engine.visualize import visualize

if __name__ == '__main__':
    visualize()
