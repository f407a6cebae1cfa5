#!/usr/bin/env bash
# Score a checkpoint on BLUFR in the foreground. CKPT is a file or a folder (its newest checkpoint).
#
#   bash scripts/eval_blufr.sh 0 ckpt --dataset_path faces
#
# Further arguments go to eval_blufr.py. Log: eval_blufr.log in the current folder.
exec bash "$(dirname "${BASH_SOURCE[0]}")/eval.sh" blufr "$@"
