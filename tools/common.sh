# shellcheck shell=bash
# Sourced by the launch scripts: ROOT, PYTHON, PYTHONPATH and the checks of their arguments.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# An active environment wins, then the checkout's .venv. Conda's base is active in every shell of many
# machines and says nothing.
if [[ -z ${PYTHON:-} ]]; then
    if [[ -n ${VIRTUAL_ENV:-} ]] ||
        [[ -n ${CONDA_PREFIX:-} && ${CONDA_DEFAULT_ENV:-base} != base ]]; then
        PYTHON=python
    elif [[ -x $ROOT/.venv/bin/python ]]; then
        PYTHON=$ROOT/.venv/bin/python
    else
        PYTHON=python3
    fi
fi
export PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}"

# Prints the usage, which is the comment at the top of the script.
help() { sed -n '2,/^[^#]/{s/^# \{0,1\}//p}' "$0"; }

# Prints it and what is wrong, and stops with 2.
usage() {
    help >&2
    echo "$(basename "$0"): error: $*" >&2
    exit 2
}

# --help, wherever it stands; the other arguments are not looked at.
for argument in "$@"; do
    if [[ $argument == --help || $argument == -h ]]; then
        help
        exit 0
    fi
done

# require_number NAME VALUE: VALUE must be a positive whole number.
require_number() {
    [[ $2 =~ ^[1-9][0-9]*$ ]] || usage "$1 must be a positive number, got '$2'"
}

# Sets OMP_NUM_THREADS so that $1 processes share the cores of this machine.
share_cores() {
    [[ -z ${OMP_NUM_THREADS:-} ]] || return 0
    local cores
    cores=$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)
    export OMP_NUM_THREADS=$((cores > $1 ? cores / $1 : 1))
}

# launch_torchrun PROCESSES SCRIPT [ARGS]: torchrun with the base libraries' environment variables; an
# error is one message at the end (tools/torchrun.py).
launch_torchrun() {
    local processes=$1 nnodes=${NNODES:-1} node=${NODE_RANK:-0} port=${PORT:-}
    shift
    require_number GPUS "$processes"
    require_number NNODES "$nnodes"
    [[ $node =~ ^[0-9]+$ ]] || usage "NODE_RANK must be a number from 0, got '$node'"
    ((node < nnodes)) || usage "NODE_RANK=$node is none of the NNODES=$nnodes nodes, 0 to $((nnodes - 1))"
    if ((nnodes > 1)); then
        [[ -n ${MASTER_ADDR:-} ]] || usage "NNODES=$nnodes needs MASTER_ADDR, the first node's address"
        port=${port:-29500}
    elif [[ -z $port ]]; then
        port=$("$PYTHON" -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])')
    fi
    require_number PORT "$port"
    share_cores "$processes"
    exec "$PYTHON" "$ROOT/tools/torchrun.py" --nnodes="$nnodes" --node_rank="$node" \
        --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="$port" \
        --nproc_per_node="$processes" "$@"
}

# launch_srun PARTITION JOB_NAME SCRIPT [ARGS]: one task a GPU.
launch_srun() {
    local partition=$1 job=$2 gpus=${GPUS:-8} per_node cpus=${CPUS_PER_TASK:-5} extra=()
    shift 2
    command -v srun >/dev/null || usage "there is no srun on the PATH: this is for a Slurm cluster"
    require_number GPUS "$gpus"
    per_node=${GPUS_PER_NODE:-$((gpus < 8 ? gpus : 8))}
    require_number GPUS_PER_NODE "$per_node"
    require_number CPUS_PER_TASK "$cpus"
    read -ra extra <<<"${SRUN_ARGS:-}"
    [[ -z ${PORT:-} ]] || export MASTER_PORT=$PORT
    exec srun --partition="$partition" --job-name="$job" --gres="gpu:$per_node" --ntasks="$gpus" \
        --ntasks-per-node="$per_node" --cpus-per-task="$cpus" --kill-on-bad-exit=1 \
        ${extra[@]+"${extra[@]}"} "$PYTHON" -u "$@" --launcher=slurm
}
