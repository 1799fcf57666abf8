#!/usr/bin/env python3
r"""Write the backbone of a checkpoint for another library, and prove the file.

    python tools/convert.py work_dirs/kd/iter_40000.pth --to mmdet --out r18.pth \
        --config mmdet::retinanet/retinanet_r18_fpn_1x_coco.py

Guide: ``docs/convert.md``; ``--help`` lists the flags.
"""

import kdmm  # noqa: F401  (registers everything)
from kdmm.transfer.cli import convert_command

if __name__ == '__main__':
    convert_command()
