#!/usr/bin/env bash
# Sets everything up and distils a small segmentor with CIRKD on two CPU processes, in a few minutes.
#
# usage: quickstart.sh [--fresh] [--here]
#
#   --fresh  train again what is trained already
#   --here   in the active Python environment, not in .venv
#
# Three arms, the same budget each: a teacher, a student alone, the same student with CIRKD. What is finished
# with the same settings is kept; what was interrupted goes on. The results: a table, pictures and curves in
# the work dir, and the proof that the distilled checkpoint loads into MMSegmentation without kdmm.
#
# Environment: KDMM_QUICKSTART (data/quickstart, the generated scenes), KDMM_QUICKSTART_WORK
# (work_dirs/quickstart), KDMM_QUICKSTART_ITERATIONS (400).
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

usage() {
    sed -n '2,/^[^#]/{s/^# \{0,1\}//p}' "$0"
    exit "$1"
}
fresh=0 setup=()
for argument in "$@"; do
    case $argument in
    --fresh) fresh=1 ;;
    --here) setup=(--here) ;;
    -h | --help) usage 0 ;;
    *) echo "quickstart.sh: unknown argument '$argument'" >&2 && usage 2 >&2 ;;
    esac
done

bash "$ROOT/tools/setup.sh" ${setup[@]+"${setup[@]}"}
if ((${#setup[@]})); then
    PYTHON=${PYTHON:-$(command -v python3 || command -v python)}
else
    PYTHON=$ROOT/.venv/bin/python
fi
cd "$ROOT"
export PYTHON PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}" CUDA_VISIBLE_DEVICES=-1
export KDMM_QUICKSTART=${KDMM_QUICKSTART:-data/quickstart}
export KDMM_QUICKSTART_WORK=${KDMM_QUICKSTART_WORK:-work_dirs/quickstart}
export KDMM_QUICKSTART_ITERATIONS=${KDMM_QUICKSTART_ITERATIONS:-400}
work=$KDMM_QUICKSTART_WORK last=iter_$KDMM_QUICKSTART_ITERATIONS.pth
processes=2 start=$SECONDS
trap 'echo; echo "quickstart.sh: interrupted; the same command goes on from here" >&2; exit 130' INT TERM

# What an arm's result depends on.
fingerprint() {
    local inputs=(configs/quickstart/*.py configs/_base_/datasets/{seg_folders,scenes}.py "$KDMM_QUICKSTART/scenes.json")
    [[ $1 != student_cirkd ]] || inputs+=("$work/teacher/$last")
    { cat "${inputs[@]}" && echo "$KDMM_QUICKSTART_ITERATIONS $processes"; } | "$PYTHON" -c \
        'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())'
}

train() {
    local arm=$1 folder=$work/$1 log=$work/$1.log want
    want=$(fingerprint "$arm")
    if ((fresh)) || [[ ! -f $folder/fingerprint || $(<"$folder/fingerprint") != "$want" ]]; then
        rm -rf "$folder"
    elif [[ -f $folder/$last && -f $folder/run_summary.json ]]; then
        echo "$arm: trained already with these settings (--fresh trains again)"
        return
    fi
    mkdir -p "$folder"
    echo "$want" >"$folder/fingerprint"
    bash tools/dist_train.sh "configs/quickstart/$arm.py" "$processes" --work-dir "$folder" --resume 2>&1 |
        "$PYTHON" tools/progress.py "$arm" --log "$log" || {
        echo "quickstart.sh: training $arm failed; the end of $log:" >&2
        tail -n 25 "$log" >&2
        exit 1
    }
}

"$PYTHON" tools/generate_scenes.py "$KDMM_QUICKSTART"
mkdir -p "$work"
for arm in teacher student student_cirkd; do
    train "$arm"
done
"$PYTHON" tools/quickstart_report.py "$work"
echo "quick start done in $((SECONDS - start)) s after set-up"
