#!/usr/bin/env bash
# Sets everything up, checks style and types, and runs the tests.
#
# usage: run_tests.sh [--here] [arguments of pytest]
#
#   --here   in the active Python environment, not in .venv
#
# Environment: OMP_NUM_THREADS (1: the slowest tests start several processes), TEST_WORKERS (2: how many
# test files run at a time; 0: all in this process).
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

case ${1:-} in
--here)
    shift
    bash "$ROOT/tools/setup.sh" --here --dev
    python=${PYTHON:-$(command -v python3 || command -v python)}
    ;;
-h | --help)
    sed -n '2,/^[^#]/{s/^# \{0,1\}//p}' "$0"
    exit 0
    ;;
*)
    bash "$ROOT/tools/setup.sh"
    python=$ROOT/.venv/bin/python
    ;;
esac

cd "$ROOT"
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
export PYTHON=$python # the launch scripts that the tests start use it too
echo '== ruff check' && "$python" -m ruff check .
echo '== ruff format' && "$python" -m ruff format --check .
echo '== mypy' && "$python" -m mypy
echo '== pytest' && exec "$python" -m pytest \
    -n "${TEST_WORKERS:-2}" --dist loadfile --no-loadscope-reorder "$@"
