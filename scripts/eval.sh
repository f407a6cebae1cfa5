#!/usr/bin/env bash
# What eval_lfw.sh and eval_blufr.sh share: eval.sh lfw|blufr DEVICE_ID CKPT [arguments of the eval script].
set -euo pipefail
protocol=$1
if [[ $# -lt 3 || ! $2 =~ ^[0-9]+$ ]]; then
    echo "usage: bash scripts/eval_$protocol.sh DEVICE_ID CKPT [arguments of eval_$protocol.py]" >&2
    exit 2
fi
project=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=$(bash "$project/scripts/python.sh")
"$python" -u "$project/eval_$protocol.py" --device_target "${DEVICE_TARGET:-auto}" --device_id "$2" --resume "$3" \
    "${@:4}" 2>&1 | tee "eval_$protocol.log"
