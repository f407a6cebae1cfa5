#!/usr/bin/env bash
# The first thing to run on a machine with cards: ten minutes, a line a check, and card_check/card_check.txt to send.
#
#   bash scripts/card_check.sh                         # Ascend
#   DEVICE_TARGET=GPU bash scripts/card_check.sh
#
# Devices, a few steps of each kind, the loss scale, equal runs, resuming, two cards against one, export. Needs no data.
set -euo pipefail
project=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=$(bash "$project/scripts/python.sh")
export PYTHONPATH=$project${PYTHONPATH:+:$PYTHONPATH}
exec "$python" -u -m src.training.card_check --device_target "${DEVICE_TARGET:-Ascend}" "$@"
