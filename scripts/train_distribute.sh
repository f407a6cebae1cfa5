#!/usr/bin/env bash
# Train on several cards, in the foreground: train_distribute.sh HCCL_JSON DEVICE_NUM [arguments of train.py].
#
#   bash scripts/train_distribute.sh hccl.json 4 --dataset_path /data/ms1m
#   DEVICE_TARGET=CPU bash scripts/train_distribute.sh 2 --dataset_path faces        # one host: the file is optional
#
# Logs: train_parallel/rank_N.log in the current folder. Run it on every host of the file.
set -euo pipefail
usage="usage: [DEVICE_TARGET=Ascend|GPU|CPU] bash scripts/train_distribute.sh [HCCL_JSON] DEVICE_NUM [arguments of train.py]"
target=${DEVICE_TARGET:-Ascend}
table=()
if [[ $# -ge 2 && $2 =~ ^[0-9]+$ && ! $1 =~ ^[0-9]+$ ]]; then
    table=(--hccl_json "$(realpath -m "$1")")
    shift
elif [[ $# -lt 1 || ! $1 =~ ^[0-9]+$ ]]; then
    echo "$usage" >&2
    exit 2
fi
project=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=$(bash "$project/scripts/python.sh")
export PYTHONPATH=$project${PYTHONPATH:+:$PYTHONPATH}
exec "$python" -u -m src.training.launch --device_num "$1" --device_target "$target" "${table[@]}" -- "${@:2}"
