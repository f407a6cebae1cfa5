#!/usr/bin/env bash
# Compile every recipe's training step for eight Ascend cards on a machine without a card: a line each, and a stage.
#
#   bash scripts/dry_run.sh [RECIPE...]
#
# Needs the CANN toolkit of the installed MindSpore (source set_env.sh first); 1 to 5 minutes a recipe. It finds what
# does not compile; what is computed only a card can show (scripts/card_check.sh).
set -uo pipefail
project=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cann=${ASCEND_HOME_PATH:-${ASCEND_TOOLKIT_HOME:-/usr/local/Ascend/ascend-toolkit/latest}}
if [[ ! -d $cann ]]; then
    echo "error: the CANN toolkit is missing: no $cann; install it and source its set_env.sh" >&2
    exit 1
fi
python=$(bash "$project/scripts/python.sh")
export PYTHONPATH=$project${PYTHONPATH:+:$PYTHONPATH} GLOG_v=${GLOG_v:-4}
export MS_SIMULATION_LEVEL=0 RANK_SIZE=8 RANK_ID=0
[[ $# -gt 0 ]] || mapfile -t recipes < <("$python" -m src.training.dry_run)
[[ $# -gt 0 ]] && recipes=("$@")
failed=0
for recipe in "${recipes[@]}"; do
    if ! output=$("$python" -m src.training.dry_run "$recipe" 2>&1); then
        failed=1
        output="$recipe: FAILED: $(grep -m 1 -E '^error: |Error' <<< "$output" || tail -n 1 <<< "$output")"
    fi
    grep -E "^$recipe(, stage [0-9]+)?: " <<< "$output"
done
exit $failed
