#!/usr/bin/env bash
# Score a checkpoint on LFW in the foreground. CKPT is a file or a folder (its newest checkpoint).
#
#   bash scripts/eval_lfw.sh 0 ckpt --dataset_path faces
#
# Further arguments go to eval_lfw.py. Log: eval_lfw.log in the current folder.
exec bash "$(dirname "${BASH_SOURCE[0]}")/eval.sh" lfw "$@"
