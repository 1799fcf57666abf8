#!/usr/bin/env bash
# Runs the tests on the upstream releases of the OpenMMLab libraries, with torch 2.1.2 and numpy 1.26.
#
# usage: test_upstream.sh [--build] [--quickstart] [arguments of pytest]
#
#   --build       only build the environment .venv-upstream beside this checkout, or find it built
#   --quickstart  run the quick start too, 20 iterations an arm, after the tests
#
# Without arguments of pytest the representative part of the suite runs: all but tests/tools (of which the
# scenes' tests run), tests/benchmarks, the tests of the documents and some end-to-end tests. mmcv has no
# compiled operators here. Skipped tests are listed with their reasons.
#
# Environment: PYTHON (python3.11, the newest that torch 2.1 has), OMP_NUM_THREADS (1), TEST_WORKERS (1: how
# many test files run at a time; 0: all in this process).
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
VENV=$ROOT/.venv-upstream

TORCH=(torch==2.1.2 torchvision==0.16.2)
# numpy and opencv: the last that work with a torch which was built for numpy 1. pkg_resources, which mmcv and
# mmpretrain import, is gone from setuptools 81.
PINS=(numpy==1.26.4 opencv-python==4.11.0.86 opencv-python-headless==4.11.0.86 'setuptools>=77,<81')
# mmcv-lite is mmcv without compiled operators: kdmm serves those that it needs through torchvision
LIBRARIES=(mmengine==0.10.7 mmcv-lite==2.1.0 mmsegmentation==1.2.2 mmdet==3.3.0 mmpretrain==1.2.0 ftfy regex)

# of the end-to-end tests what depends on the versions: resuming, files, the base libraries' own models
END_TO_END=(bad_input cohort configs families plain profile quickstart_report resume resume_family world_size)

usage() {
    sed -n '2,/^[^#]/{s/^# \{0,1\}//p}' "$0"
    exit "$1"
}

build=0 quickstart=0 arguments=()
for argument in "$@"; do
    case $argument in
    --build) build=1 ;;
    --quickstart) quickstart=1 ;;
    -h | --help) usage 0 ;;
    *) arguments+=("$argument") ;;
    esac
done

python=$VENV/bin/python
pip() { "$python" -m pip "$1" --disable-pip-version-check -q "${@:2}"; }

# Done already? The stamp is written last.
stamp=$VENV/.kdmm-upstream want="${TORCH[*]} ${PINS[*]} ${LIBRARIES[*]}"
if [[ ! -f $stamp || $(<"$stamp") != "$want" ]]; then
    base=${PYTHON:-$(command -v python3.11 || true)}
    [[ -n $base ]] || { echo 'test_upstream.sh: no python3.11 on the PATH: set PYTHON' >&2 && exit 1; }
    "$base" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 11))' ||
        { echo "test_upstream.sh: torch 2.1 needs Python 3.10 or 3.11, $base is $("$base" -V)" >&2 && exit 1; }
    echo '== the environment .venv-upstream'
    [[ -x $python ]] || "$base" -m venv "$VENV"
    pip install "${TORCH[@]}" "${PINS[@]}" wheel cython
    pip install "${PINS[@]}" "${LIBRARIES[@]}"
    echo "$want" >"$stamp"
fi
# The rest as a user gets it, with nothing of the above replaced: mmpose, xtcocotools, kdmm.
PYTHON=$python bash "$ROOT/tools/setup.sh" --here --dev
"$python" - "${TORCH[@]}" "${PINS[@]}" "${LIBRARIES[@]}" <<'PY'
import sys
from importlib.metadata import version

pinned = dict(pin.split('==') for pin in sys.argv[1:] if '==' in pin)
replaced = {name: version(name) for name, pin in pinned.items() if version(name).split('+')[0] != pin}
if replaced:
    sys.exit(f'test_upstream.sh: setup.sh --here replaced {replaced}, the environment had {pinned}')
PY
((build)) && exit 0

cd "$ROOT"
export PYTHON=$python PATH="$VENV/bin:$PATH" OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
export PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}"
if ((${#arguments[@]} == 0)); then
    for room in tests/*/ tests/tools/scenes/ tests/test_*.py; do
        case $room in
        tests/e2e/ | tests/tools/ | tests/benchmarks/ | *__pycache__*) ;;
        *) arguments+=("$room") ;;
        esac
    done
    for name in "${END_TO_END[@]}"; do
        arguments+=("tests/e2e/test_$name.py")
    done
fi
echo '== pytest'
"$python" -m pytest -q -n "${TEST_WORKERS:-1}" --dist loadfile --no-loadscope-reorder "${arguments[@]}"
if ((quickstart)); then
    echo '== quick start'
    folder=$(mktemp -d)
    trap 'rm -rf "$folder"' EXIT
    KDMM_QUICKSTART=$folder/data KDMM_QUICKSTART_WORK=$folder/work KDMM_QUICKSTART_ITERATIONS=20 \
        bash tools/quickstart.sh --here
fi
