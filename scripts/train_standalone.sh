#!/usr/bin/env bash
# Train on one card in the background; it goes on after logout. Further arguments go to train.py.
#
#   bash scripts/train_standalone.sh 0 --dataset_path /data/ms1m
#
# Log: train_standalone_log.log in the current folder. DEVICE_TARGET=CPU|GPU|Ascend chooses the target; on the CPU,
# one-core processes share the batch, since that is faster than one process on all cores (logs: train_parallel/).
# A start that fails within START_SECONDS (default 20) is shown and returns 1.
set -euo pipefail
if [[ $# -lt 1 || ! $1 =~ ^[0-9]+$ ]]; then
    echo "usage: bash scripts/train_standalone.sh DEVICE_ID [arguments of train.py]" >&2
    exit 2
fi
project=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
log=train_standalone_log.log
python=$(bash "$project/scripts/python.sh")
command=("$project/train.py" --device_target "${DEVICE_TARGET:-auto}" --device_id "$1")
if [[ ${DEVICE_TARGET:-} == CPU ]]; then
    export PYTHONPATH=$project${PYTHONPATH:+:$PYTHONPATH}
    command=(-m src.training.launch --device_num auto --device_target CPU --)
fi
setsid nohup "$python" -u "${command[@]}" "${@:2}" > "$log" 2>&1 < /dev/null &
pid=$!
for _ in $(seq $((${START_SECONDS:-20} * 2))); do
    sleep 0.5
    if ! kill -0 "$pid" 2>/dev/null; then
        if wait "$pid"; then
            echo "training has ended, log $PWD/$log"
            exit 0
        fi
        echo "training failed at the start, log $PWD/$log:" >&2
        tail -n 20 "$log" >&2
        exit 1
    fi
done
echo "training runs as pid $pid, log $PWD/$log"
