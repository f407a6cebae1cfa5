#!/usr/bin/env bash
# Score an exported model on LFW and BLUFR with the C++ program, on an Ascend 310 or the CPU.
#
#   bash run_infer_310.sh model.mindir lfw 0
#   DEVICE_TARGET=CPU bash run_infer_310.sh model.mindir faces
#
# DATASET is the data set folder of docs/data.md, or lfw in it. In the current folder: preprocess_Result/, result_Files/,
# time_Result/, lfw.json, blufr.json, thresholds.json, acc.log, and a log of every step. What is up to date is not made
# again. BATCH_SIZE: images a call (default: the model's own on Ascend, 8 on the CPU). LITE_HOME: see build.sh.
# PRECISION_MODE: what an Ascend computes in (default enforce_fp16; enforce_fp32 and others, see main --help).
set -uo pipefail
if [[ $# -lt 2 || $# -gt 3 || ! ${3:-0} =~ ^[0-9]+$ ]]; then
    echo "usage: bash run_infer_310.sh MINDIR DATASET [DEVICE_ID]" >&2
    exit 2
fi
project=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=$(bash "$project/scripts/python.sh")
target=${DEVICE_TARGET:-Ascend}
batch=()
[[ $target == CPU ]] && batch=(--batch_size 8)
[[ -n ${BATCH_SIZE:-} ]] && batch=(--batch_size "$BATCH_SIZE")
[[ -n ${PRECISION_MODE:-} ]] && batch+=(--precision_mode "$PRECISION_MODE")
for folder in runtime/lib runtime/third_party/dnnl tools/converter/lib; do        # of an unpacked tarball of Lite
    if [[ -n ${LITE_HOME:-} && -d $LITE_HOME/$folder ]]; then
        LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$(realpath "$LITE_HOME/$folder")
        export LD_LIBRARY_PATH
    fi
done

step() {        # step NAME LOG COMMAND...: run it, show it, and stop here if it fails
    local name=$1 log=$2
    shift 2
    "$@" 2>&1 | tee "$log"
    local code=${PIPESTATUS[0]}
    if [[ $code -ne 0 ]]; then
        echo "error: $name failed with code $code, log $PWD/$log" >&2
        exit $code
    fi
}

step preprocess preprocess.log "$python" "$project/preprocess.py" --data_path "$2" --model "$1" \
    --result_path preprocess_Result
step build build.log bash "$project/ascend310_infer/build.sh"
step infer infer.log "$(tail -n 1 build.log)" --mindir_path "$1" --dataset_path preprocess_Result --device_id "${3:-0}" \
    --device_target "$target" --result_path result_Files --time_path time_Result "${batch[@]}"
step postprocess acc.log "$python" "$project/postprocess.py" --result_path result_Files --data_path "$2"
