#!/usr/bin/env bash
# Collects the wheels that a GPU host without a network needs beside the torch that it has.
#
# usage: offline_wheels.sh [FOLDER] [PYTHON]
#
#   FOLDER   where the wheels go (.whl)
#   PYTHON   version of the host's Python, on x86-64 Linux (3.12)
#
# The host is expected to have torch, torchvision, numpy, scipy, opencv-python, matplotlib, scikit-image, numba,
# tensorboard, rich, and what they need, as images for GPU work do. kdmm's own wheel is among the files. mmcv comes
# without compiled operators and xtcocotools not at all: on the host segmentation, classification and detection run.
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

usage() {
    sed -n '2,/^[^#]/{s/^# \{0,1\}//p}' "$0"
    exit "$1"
}
case ${1:-} in
-h | --help) usage 0 ;;
-*) echo "offline_wheels.sh: unknown argument '$1'" >&2 && usage 2 >&2 ;;
esac
folder=${1:-$ROOT/.whl} version=${2:-3.12}
[[ $version =~ ^3\.[0-9]+$ ]] || { echo "offline_wheels.sh: PYTHON '$version', expected 3.12 or the like" >&2 && usage 2 >&2; }
python=${PYTHON:-$(command -v python3)}
mkdir -p "$folder"

# Pure Python, published as source or with requirements that are not wanted: built here. mmcv is built without
# torch in sight and so without operators; pip's cache would not tell it from one that has them.
mapfile -t base < <(grep -oE '^onedl-[a-z]+==[0-9.]+' "$ROOT/requirements.txt")
for name in "${base[@]}" modelindex model-index "$ROOT"; do
    echo "building ${name##*/}"
    "$python" -m pip wheel -q --disable-pip-version-check --no-deps --no-cache-dir -w "$folder" "$name"
done

# What they import, and what that imports in turn.
names=(
    addict pyyaml regex termcolor yapf platformdirs         # MMEngine and mmcv
    ftfy prettytable wcwidth                                # MMSegmentation
    imaug imagecorruptions-imaug imageio six pycocotools shapely terminaltables tqdm # MMDetection
    einops importlib-metadata lazy-importer zipp mat4py click markdown ordered-set # MMPretrain and the model index
    mmpose==1.3.2 json-tricks munkres                       # MMPose
)
platforms=()
for glibc in 2_39 2_35 2_34 2_31 2_28 2_27 2_24 2_17; do
    platforms+=(--platform "manylinux_${glibc}_x86_64")
done
echo "fetching ${names[*]}"
"$python" -m pip download -q --disable-pip-version-check --no-deps --only-binary :all: -d "$folder" \
    --implementation cp --python-version "$version" "${platforms[@]}" \
    --platform manylinux2014_x86_64 --platform manylinux1_x86_64 "${names[@]}"

count=$(find "$folder" -name '*.whl' | wc -l)
cat <<EOF
$count wheels, $(du -sh "$folder" | cut -f1), in $folder. Copy the folder to the host; there:

    PIP_NO_INDEX=1 python3 -m pip install --no-deps --target site $(basename "$folder")/*.whl
    export PYTHONPATH=\$PWD/site
    python3 -m kdmm --version
EOF
