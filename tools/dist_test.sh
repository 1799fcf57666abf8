#!/usr/bin/env bash
# Evaluates a checkpoint on the GPUs of this machine, or on its CPU cores where it has none.
#
# usage: dist_test.sh CONFIG CHECKPOINT GPUS [arguments of test.py]
#
# GPUS is the number of processes on this machine. Environment: NNODES (1), NODE_RANK (0),
# MASTER_ADDR (127.0.0.1), PORT (a free one; 29500 with several nodes), OMP_NUM_THREADS (cores / GPUS),
# PYTHON (the active environment's, or that of .venv).
set -euo pipefail
# shellcheck source=tools/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

[[ $# -ge 3 ]] || usage "CONFIG, CHECKPOINT and GPUS are needed"
launch_torchrun "$3" "$ROOT/tools/test.py" "$1" "$2" --launcher pytorch "${@:4}"
