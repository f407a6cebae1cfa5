#!/usr/bin/env bash
# Fuzz the readers of the C++ program with libFuzzer, ASan and UBSan; a finding is exit code 1 and a file that shows it.
#
#   bash ascend310_infer/fuzz/run.sh 300 [WORK]          # seconds a reader; needs clang++
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
seconds=${1:-10}
work=${2:-$(mktemp -d)}
command -v clang++ > /dev/null || { echo "error: clang++ is not there; Debian and Ubuntu: apt-get install clang" >&2; exit 2; }
mkdir -p "$work"
work=$(realpath "$work")
opencv=()
[[ -d /usr/include/opencv4 ]] && opencv=(-DHAVE_OPENCV -isystem /usr/include/opencv4 -lopencv_core -lopencv_imgcodecs
                                         -lopencv_imgproc)

declare -A sources=([manifest]="images.cc" [metadata]="metadata.cc json.cc" [options]="options.cc" [pictures]="pictures.cc")
for reader in manifest metadata options pictures; do
    further=()
    [[ $reader == pictures ]] && further=("${opencv[@]}")
    clang++ -std=c++17 -g -O1 -Wall -Wextra -Werror -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all \
        -I "$here/.." "$here/$reader.cc" $(printf " $here/../src/%s" ${sources[$reader]}) "${further[@]}" -pthread \
        -o "$work/$reader"
    mkdir -p "$work/corpus_$reader"
    # nothing needs a seed that is not written here: a first line, a word in braces, a flag
    case $reader in
        manifest) printf '# lightcnn manifest 1\na/b\t000000.bin\n' > "$work/corpus_$reader/seed" ;;
        metadata) printf '%s' '{"face_format": {"colour": "grey", "train_side": 144, "test_side": 128, "mean": 0.0,' \
            ' "scale": 255.0}, "input": {"shape": ["N", 1, 128, 128], "scaling": "outside"},' \
            ' "output": {"shape": [1, 256]}}' > "$work/corpus_$reader/seed" ;;
        options) printf -- '--mindir_path\nm\n--compare\na\nb\n--threshold=0.4' > "$work/corpus_$reader/seed" ;;
        pictures) printf 'BM\x00\x00\x00\x00' > "$work/corpus_$reader/seed" ;;
    esac
    (cd "$work" && ASAN_OPTIONS=detect_leaks=0 "./$reader" -max_total_time="$seconds" -max_len=4096 -rss_limit_mb=2048 \
        -timeout=20 -print_final_stats=1 "corpus_$reader") > "$work/$reader.log" 2>&1 ||
        { tail -n 25 "$work/$reader.log" >&2; echo "error: $reader: a finding, see $work" >&2; exit 1; }
    echo "$reader: $(sed -n 's/stat::number_of_executed_units: *//p' "$work/$reader.log") inputs in $seconds s, no finding"
done
