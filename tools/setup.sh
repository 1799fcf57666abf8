#!/usr/bin/env bash
# Installs kdmm and the libraries it is tested with; a second call finds that done and returns at once.
#
# usage: setup.sh [--here] [--dev]
#
#   (default)  into .venv beside this checkout, created where it is missing, with the developer's tools
#   --here     into the active Python environment, without the developer's tools
#   --dev      with --here: the developer's tools too (pytest, ruff, mypy)
#
# A torch that is installed is kept, and so are MMEngine, mmcv and the task libraries where they come
# from the upstream distributions. No compiler is needed for mmcv. Environment: PYTHON (python3).
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
MMPOSE=mmpose==1.3.2
XTCOCO=xtcocotools==1.14.3

step() { printf '[setup %3ds] %s\n' "$SECONDS" "$*"; }
fail() {
    printf 'setup.sh: %s\n' "$*" >&2
    exit 1
}
usage() {
    sed -n '2,/^[^#]/{s/^# \{0,1\}//p}' "$0"
    exit "$1"
}

here=0 dev=0
for argument in "$@"; do
    case $argument in
    --here) here=1 ;;
    --dev) dev=1 ;;
    -h | --help) usage 0 ;;
    *) echo "setup.sh: unknown argument '$argument'" >&2 && usage 2 >&2 ;;
    esac
done

base=${PYTHON:-}
if [[ -z $base ]]; then
    base=$(command -v python3 || command -v python) || fail "no python3 on the PATH: install Python 3.10 or newer"
fi
check_python() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
        fail "Python 3.10 or newer is needed, $1 is $("$1" -V 2>&1): set PYTHON=/path/to/python3.x"
}

if ((here)); then
    python=$base
    check_python "$python"
else
    dev=1
    python=$ROOT/.venv/bin/python
    if ! "$python" -m pip --version >/dev/null 2>&1; then
        check_python "$base"
        "$base" -c 'import ensurepip, venv' 2>/dev/null ||
            fail "$base lacks the module venv: install it (Debian, Ubuntu: apt install python3-venv) or use --here"
        step "creating .venv with $("$base" -V)"
        "$base" -m venv "$ROOT/.venv" || fail "could not create $ROOT/.venv"
    fi
    check_python "$python"
fi

# Done already? Same script, pins and Python, and the packages are still there.
prefix=$("$python" -c 'import sys; print(sys.prefix)')
stamp=$prefix/.kdmm-setup
want=$({
    echo "$ROOT $dev"
    "$python" -VV
    cat "$ROOT/requirements.txt" "$ROOT/pyproject.toml" "${BASH_SOURCE[0]}"
} | "$python" -c 'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())')
present() { "$python" -c 'import sys
from importlib.util import find_spec
sys.exit(not all(map(find_spec, sys.argv[1:])))' "$@"; }
if [[ -f $stamp && $(<"$stamp") == "$want" ]] && present torch torchvision cv2 mmengine mmcv mmseg kdmm; then
    step "$prefix is up to date"
    exit 0
fi

# Another set-up of the same environment finishes first.
if command -v flock >/dev/null && [[ -w $prefix ]]; then
    exec 9>"$stamp.lock"
    flock 9
    [[ ! -f $stamp || $(<"$stamp") != "$want" ]] || { step "$prefix is up to date" && exit 0; }
fi

log=$(mktemp) scratch=$(mktemp -d)
trap 'rm -rf "$log" "$scratch"' EXIT
constraints=$scratch/constraints.txt
: >"$constraints"
pip() { "$python" -m pip "$1" --disable-pip-version-check -q -c "$constraints" "${@:2}"; }
try() { # try WHAT pip-arguments...
    step "$1"
    pip "${@:2}" >"$log" 2>&1 || {
        tail -n 25 "$log" >&2
        fail "failed: $1. pip's last lines are above; check the network or the package index and run it again"
    }
}

# The pins that are still to be met: what is there from elsewhere is kept.
"$python" - "$ROOT/requirements.txt" "$scratch" <<'PY'
import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

MM = {'mmengine': 'onedl-mmengine', 'mmcv': 'onedl-mmcv', 'mmseg': 'onedl-mmsegmentation',
      'mmdet': 'onedl-mmdetection', 'mmpretrain': 'onedl-mmpretrain'}


def installed(name):
    try:
        return version(name)
    except PackageNotFoundError:
        return None


lines = [line.split('#')[0].strip() for line in Path(sys.argv[1]).read_text().splitlines()]
pins = {line.split('=')[0].split('>')[0].strip(): line for line in lines if line}
scratch = Path(sys.argv[2])
keep = []
torch, vision = installed('torch'), installed('torchvision')
if torch:
    keep.append(f'torch=={torch}')
    del pins['torch']
    minor = int(torch.split('.')[1])
    pins['torchvision'] = f'torchvision==0.{minor + 15}.*'
    if vision:
        keep.append(f'torchvision=={vision}')
        del pins['torchvision']
upstream = [m for m, dist in MM.items() if find_spec(m) and not installed(dist)]
if upstream:
    keep += [f'{m} (not from {MM[m]})' for m in upstream]
    there = [name for name in ('numpy', 'opencv-python', 'opencv-python-headless') if installed(name)]
    for dist in (*MM.values(), *there):  # they belong to another line than the pins
        del pins[dist]
if keep:
    print('             kept:', ', '.join(keep))
(scratch / 'requirements.txt').write_text('\n'.join(pins.values()) + '\n')
(scratch / 'constraints.txt').write_text(f'torch=={torch}\n' if torch else '')
PY

((here)) && tools=(setuptools wheel cython) || tools=(-U pip setuptools wheel cython)
try "pip, setuptools, cython" install "${tools[@]}"
try "torch, the base libraries and their requirements (minutes, the first time)" \
    install -r "$scratch/requirements.txt"
complete=1
if ! present mmpose; then
    try "mmpose, without chumpy" install --no-deps "$MMPOSE"
fi
if ! "$python" -c 'import xtcocotools.mask' 2>/dev/null; then
    step "xtcocotools, from source"
    pip install --no-binary xtcocotools --no-build-isolation --no-deps --no-cache-dir \
        --force-reinstall "$XTCOCO" >"$log" 2>&1 || {
        complete=0
        tail -n 5 "$log" >&2
        echo "setup.sh: xtcocotools did not build (is a C compiler there?). All but pose estimation works" >&2
    }
fi
if ((dev)); then
    try "kdmm and the developer's tools" install --no-build-isolation -e "${ROOT}[dev]"
else
    try "kdmm" install --no-build-isolation --no-deps -e "$ROOT"
fi

step "checking"
(cd / && "$python" - <<'PY') || fail "the installed libraries do not import, see above"
import cv2
import mmcv
import mmengine
import mmseg
import torch
import torchvision

import kdmm  # noqa: F401

names = {m.__name__: m.__version__ for m in (torch, torchvision, cv2, mmengine, mmcv, mmseg)}
print('            ', ', '.join(f'{k} {v}' for k, v in names.items()))
PY
if ((complete)) && [[ -w $prefix ]]; then
    echo "$want" >"$stamp"
fi
step "done: $prefix"
