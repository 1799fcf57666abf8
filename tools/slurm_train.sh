#!/usr/bin/env bash
# Trains a config under Slurm, one task a GPU.
#
# usage: slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR [arguments of train.py]
#
# Environment: GPUS (8), GPUS_PER_NODE (8, or GPUS where fewer), CPUS_PER_TASK (5), SRUN_ARGS (more
# arguments of srun), PORT (29500), PYTHON (the active environment's, or that of .venv).
set -euo pipefail
# shellcheck source=tools/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

[[ $# -ge 4 ]] || usage "PARTITION, JOB_NAME, CONFIG and WORK_DIR are needed"
launch_srun "$1" "$2" "$ROOT/tools/train.py" "$3" --work-dir="$4" "${@:5}"
