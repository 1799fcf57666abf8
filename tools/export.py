#!/usr/bin/env python3
r"""Write the network of a checkpoint as ONNX or for torch.export, and prove the file.

    python tools/export.py CONFIG work_dirs/kd/iter_40000.pth --onnx student.onnx

Guide: ``docs/deploy.md``; ``--help`` lists the flags.
"""

import kdmm  # noqa: F401  (registers everything)
from kdmm.deploy.cli import export

if __name__ == '__main__':
    export()
