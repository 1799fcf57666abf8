#!/usr/bin/env bash
# Evaluates a checkpoint under Slurm, one task a GPU.
#
# usage: slurm_test.sh PARTITION JOB_NAME CONFIG CHECKPOINT [arguments of test.py]
#
# Environment: GPUS (8), GPUS_PER_NODE (8, or GPUS where fewer), CPUS_PER_TASK (5), SRUN_ARGS (more
# arguments of srun), PORT (29500), PYTHON (the active environment's, or that of .venv).
set -euo pipefail
# shellcheck source=tools/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

[[ $# -ge 4 ]] || usage "PARTITION, JOB_NAME, CONFIG and CHECKPOINT are needed"
launch_srun "$1" "$2" "$ROOT/tools/test.py" "$3" "$4" "${@:5}"
