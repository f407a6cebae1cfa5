#!/usr/bin/env bash
# Train on eight cards, in the foreground: train_distribute_8p.sh HCCL_JSON [arguments of train.py].
#
#   bash scripts/train_distribute_8p.sh hccl.json --dataset_path /data/ms1m
#   DEVICE_TARGET=CPU bash scripts/train_distribute_8p.sh --dataset_path faces       # GPU and CPU: the file is optional
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
if [[ $# -ge 1 && $1 != -* ]]; then
    exec bash "$here/train_distribute.sh" "$1" 8 "${@:2}"
elif [[ ${DEVICE_TARGET:-Ascend} != Ascend ]]; then
    exec bash "$here/train_distribute.sh" 8 "$@"
fi
echo "usage: bash scripts/train_distribute_8p.sh HCCL_JSON [arguments of train.py]" >&2
exit 2
