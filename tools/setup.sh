#!/usr/bin/env bash
# Installs kdmm and the libraries it is tested with; a second call finds that done and returns at once.
#
# usage: setup.sh [--here] [--dev] [--cpu]
#
#   (default)  into .venv beside this checkout, created where it is missing, with the developer's tools
#   --here     into the active Python environment, without the developer's tools; of what is installed there
#              (numpy, torch, OpenCV, MMEngine, mmcv, the task libraries) no version changes
#   --dev      with --here: the developer's tools too (pytest, ruff, mypy)
#   --cpu      torch and torchvision without CUDA (which is 4 GB), from KDMM_TORCH_INDEX: a folder of wheels,
#              or the address of a package index that has the CPU builds
#
# A torch that is installed is kept. Without a compiler for xtcocotools all but pose estimation is set up;
# mmcv needs none. Environment: PYTHON (python3), KDMM_TORCH_INDEX.
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

here=0 dev=0 cpu=0
for argument in "$@"; do
    case $argument in
    --here) here=1 ;;
    --dev) dev=1 ;;
    --cpu) cpu=1 ;;
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

# torch_build: cpu, none where it is not installed, or the version of CUDA or ROCm.
torch_build() { "$python" -c 'import runpy
from importlib.util import find_spec
from pathlib import Path
spec = find_spec("torch")
found = runpy.run_path(str(Path(spec.origin).with_name("version.py"))) if spec else {}
print((found.get("cuda") or found.get("hip") or "cpu") if spec else "none")'; }
if ((cpu)); then
    build=$(torch_build)
    case $build in
    cpu) ;;
    none)
        [[ -n ${KDMM_TORCH_INDEX:-} ]] ||
            fail "--cpu: set KDMM_TORCH_INDEX to a folder of wheels or to a package index with torch's CPU builds"
        [[ -d $KDMM_TORCH_INDEX || $KDMM_TORCH_INDEX == *://* ]] ||
            fail "KDMM_TORCH_INDEX='$KDMM_TORCH_INDEX' is neither a folder nor an address"
        ;;
    *) fail "--cpu: torch is installed already, with CUDA or ROCm $build: uninstall torch and torchvision first" ;;
    esac
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

# The pins that are still to be met: what is there is kept.
"$python" - "$ROOT/requirements.txt" "$scratch" "$here" <<'PY'
import json
import sys
from importlib.metadata import distributions
from importlib.util import find_spec
from pathlib import Path

MM = {'mmengine': 'onedl-mmengine', 'mmcv': 'onedl-mmcv', 'mmseg': 'onedl-mmsegmentation',
      'mmdet': 'onedl-mmdetection', 'mmpretrain': 'onedl-mmpretrain'}
UPSTREAM = ('mmengine', 'mmcv', 'mmcv-lite', 'mmsegmentation', 'mmdet', 'mmpretrain', 'mmpose')
OPENCV = ('opencv-python', 'opencv-python-headless')
OTHER_OPENCV = ('opencv-contrib-python', 'opencv-contrib-python-headless')
KEPT = ('numpy', 'torch', 'torchvision', 'setuptools', *OPENCV, *OTHER_OPENCV, *MM.values(), *UPSTREAM)

path, scratch, here = sys.argv[1], Path(sys.argv[2]), sys.argv[3] == '1'
found = {d.metadata['Name'].lower().replace('_', '-'): d.version for d in distributions() if d.metadata['Name']}
(scratch / 'before.json').write_text(json.dumps(found))
lines = [line.split('#')[0].strip() for line in Path(path).read_text().splitlines()]
pins = {line.split('=')[0].split('>')[0].strip(): line for line in lines if line}
limits = {name: f'{name}=={found[name]}' for name in (KEPT if here else ('torch',)) if name in found}
for name in limits:
    pins.pop(name, None)

torch = found.get('torch')
if torch:
    minor = int(torch.split('.')[1])
    if 'torchvision' in found:
        pins.pop('torchvision', None)
    else:
        pins['torchvision'] = f'torchvision==0.{minor + 15}.*'
    if minor < 3 and 'numpy' in pins:  # built for numpy 1
        pins['numpy'] = limits['numpy'] = 'numpy<2'
upstream = [m for m, dist in MM.items() if find_spec(m) and dist not in found]
if upstream:
    for dist in MM.values():  # they belong to another line than the pins
        pins.pop(dist, None)
    if 'setuptools' not in found:
        limits['setuptools'] = 'setuptools<82'  # the last with pkg_resources, which MMEngine imports
there = [found[name] for name in (*OPENCV, *OTHER_OPENCV) if name in found]
numpy = tuple(int(n) for n in found.get('numpy', '1.26' if pins.get('numpy') == 'numpy<2' else '2.2').split('.')[:2])
for name in OPENCV:  # they share the module cv2: one version of all
    if name in pins and here and there:
        limits[name] = f'{name}=={there[0]}'
        del pins[name]
    elif name in pins and numpy < (2,):  # from 4.12 on they demand numpy 2
        pins[name] = limits[name] = f'{name}==4.11.0.86'
    elif name in pins and numpy > (2, 2):  # 4.12 demands an older one
        pins[name] = limits[name] = f'{name}>=4.13,<5'
if limits:
    print('             kept:', ', '.join(limits[n].replace('==', ' ') for n in limits if n in found))
(scratch / 'requirements.txt').write_text('\n'.join(pins.values()) + '\n')
(scratch / 'constraints.txt').write_text('\n'.join(limits.values()) + '\n')
PY

((here)) && tools=(setuptools wheel cython) || tools=(-U pip setuptools wheel cython)
try "pip, setuptools, cython" install "${tools[@]}"
if ((cpu)) && grep -E '^torch(vision)?[=>]' "$scratch/requirements.txt" >"$scratch/torch.txt"; then
    if [[ -d $KDMM_TORCH_INDEX ]]; then
        # as an address, since pip splits this variable at blanks
        folder=$("$python" -c 'import pathlib, sys; print(pathlib.Path(sys.argv[1]).resolve().as_uri())' "$KDMM_TORCH_INDEX")
        from=(PIP_CONFIG_FILE=/dev/null PIP_NO_INDEX=1 "PIP_FIND_LINKS=$folder")
    else
        from=(-u PIP_EXTRA_INDEX_URL -u PIP_FIND_LINKS "PIP_INDEX_URL=$KDMM_TORCH_INDEX")
    fi
    step "torch and torchvision from KDMM_TORCH_INDEX"
    env "${from[@]}" "$python" -m pip install --disable-pip-version-check -q -c "$constraints" --no-deps \
        -r "$scratch/torch.txt" >"$log" 2>&1 || {
        tail -n 25 "$log" >&2
        fail "no $(paste -sd' ' "$scratch/torch.txt") in KDMM_TORCH_INDEX=$KDMM_TORCH_INDEX"
    }
    build=$(torch_build)
    [[ $build == cpu ]] || fail "KDMM_TORCH_INDEX=$KDMM_TORCH_INDEX gave a torch for CUDA or ROCm $build"
fi
try "torch, the base libraries and their requirements (minutes, the first time)" \
    install -r "$scratch/requirements.txt"
complete=1
no_pose() { # no_pose WHAT REASON
    complete=0
    echo "setup.sh: all but pose estimation is set up: $1 could not be installed ($2)" >&2
}
present mmpose || { step "mmpose, without chumpy" && pip install --no-deps "$MMPOSE" >"$log" 2>&1; } ||
    no_pose mmpose "$(tail -n 1 "$log")"
if present mmpose && ! "$python" -c 'import xtcocotools.mask' 2>/dev/null; then
    # the wheels are built for numpy 1
    options=(--no-deps --no-cache-dir --force-reinstall)
    "$python" -c 'import numpy, sys; sys.exit(numpy.__version__ < "2")' &&
        options+=(--no-binary xtcocotools --no-build-isolation)
    step "xtcocotools"
    pip install "${options[@]}" "$XTCOCO" >"$log" 2>&1 ||
        no_pose xtcocotools "its source needs a C compiler and a Python before 3.13; this is $("$python" -V)"
fi
# Building kdmm needs setuptools 77; an older one of this environment stays, and pip fetches another for the build.
isolation=(--no-build-isolation)
"$python" -c 'import setuptools, sys; sys.exit(int(setuptools.__version__.split(".")[0]) < 77)' || isolation=()
if ((dev)); then
    try "kdmm and the developer's tools" install ${isolation[@]+"${isolation[@]}"} -e "${ROOT}[dev]"
else
    try "kdmm" install ${isolation[@]+"${isolation[@]}"} --no-deps -e "$ROOT"
fi

# In the parent folder of the checkout, where a folder of kdmm's name must not hide it.
step "checking"
(cd "$ROOT/.." && "$python" - "$scratch/before.json" <<'PY') || fail "the environment does not work, see above"
import io
import json
import sys
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

warnings.simplefilter('ignore')


def now(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return 'gone'


def check(what: str, action: Callable[[], object]) -> None:
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):  # libraries talk on import
            action()
    except Exception as error:
        before = json.loads(Path(sys.argv[1]).read_text())
        changed = [f'{n} {v} -> {now(n)}' for n, v in sorted(before.items()) if now(n) != v]
        sys.exit(
            f'setup.sh: {what} fails: {type(error).__name__}: {error}\n'
            f'setup.sh: this run changed {", ".join(changed) or "no version that was there before"}'
        )


def from_numpy() -> None:
    import numpy
    import torch

    assert torch.from_numpy(numpy.zeros(1)).sum() == 0


def operator() -> None:
    import torch
    from mmcv.ops import nms

    boxes = torch.tensor([[0.0, 0, 9, 9], [0, 0, 9, 8], [20, 20, 29, 29]])
    assert nms(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.5)[1].tolist() == [0, 2]


check('torch.from_numpy', from_numpy)
for module in ('torchvision', 'cv2', 'mmengine', 'mmcv', 'kdmm', 'kdmm.datasets.integrations'):
    check(f'import {module}', lambda: import_module(module))
if find_spec('mmseg'):
    check('import mmseg.models', lambda: import_module('mmseg.models'))
else:
    print('             mmseg is not installed: segmentation is left out')
check("mmcv.ops.nms, mmcv's own or kdmm's", operator)
names = ('torch', 'torchvision', 'numpy', 'cv2', 'mmengine', 'mmcv', 'mmseg')
shown = [m for m in map(sys.modules.get, names) if m]
print('            ', ', '.join(f'{m.__name__} {m.__version__}' for m in shown))
PY
if ((complete)) && [[ -w $prefix ]]; then
    echo "$want" >"$stamp"
fi
step "done: $prefix"
