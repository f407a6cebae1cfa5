#!/usr/bin/env bash
# From nothing but Python 3.11 to a trained LightCNN and its LFW and BLUFR numbers, on procedurally generated faces.
#
#   bash scripts/quickstart.sh
#
# Everything goes to quickstart/ in the project; further arguments (--set ...) go to train.py. If it fails half-way,
# run it again and it goes on where it stopped.
set -euo pipefail
project=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$project"
bash scripts/setup.sh
python=$project/.venv/bin/python
out=${QUICKSTART_DIR:-quickstart}
data=$out/data
recipe=(--recipe quickstart --dataset_path "$data" --device_target "${DEVICE_TARGET:-auto}")
mkdir -p "$out"

echo "1/4 drawing synthetic faces"
[[ -f $data/train_list.txt ]] || "$python" -m src.data.synthetic --out "$data"

echo "2/4 training"
"$python" train.py "${recipe[@]}" --ckpt_path "$out/ckpt" --resume auto "$@"

echo "3/4 embedding the test faces, untrained and trained"
for protocol in lfw blufr; do
    "$python" "eval_$protocol.py" "${recipe[@]}" --untrained --save_features "$out/untrained_$protocol.npy" \
        --json "$out/untrained_$protocol.json" --thresholds "$out/untrained_thresholds_$protocol.json" "$@" \
        > "$out/untrained_$protocol.txt"
    "$python" "eval_$protocol.py" "${recipe[@]}" --resume "$out/ckpt" --save_features "$out/trained_$protocol.npy" \
        --json "$out/trained_$protocol.json" --thresholds "$out/thresholds_$protocol.json" \
        > "$out/trained_$protocol.txt"
done

echo "4/4 results on synthetic faces, of people never trained on (they say nothing about real ones)"
"$python" -m src.compare --recipe quickstart --dataset_path "$data" --out "$out" \
    --note "Synthetic faces of people never trained on: the numbers say that the pipeline works, nothing about people." \
    --run untrained "$out/untrained_lfw.npy" "$out/untrained_blufr.npy" \
    --run trained "$out/trained_lfw.npy" "$out/trained_blufr.npy"
echo "training: $out/ckpt/training.png"
