#!/usr/bin/env python3
r"""Write the network without its zero filters: a config, a checkpoint and a report.

    python tools/prune.py my_config.py work_dirs/my_config/epoch_200.pth --out pruned

Guide: ``docs/pruning.md``; ``--help`` lists the flags.
"""

import kdmm  # noqa: F401  (registers everything)
from kdmm.transfer.prune import prune_command

if __name__ == '__main__':
    prune_command()
