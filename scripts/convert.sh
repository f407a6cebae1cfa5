#!/usr/bin/env bash
# MS-Celeb-1M's TSV file -> a folder of faces: convert.sh FILE_PATH OUTPUT_PATH [arguments of src/convert.py].
#
#   bash scripts/convert.sh FaceImageCroppedWithAlignment.tsv train --clean_list clean_list.txt
#
# Killed? Run it again: it goes on where it stopped.
set -euo pipefail
if [[ $# -lt 2 ]]; then
    echo "usage: bash scripts/convert.sh FILE_PATH OUTPUT_PATH [arguments of src/convert.py]" >&2
    exit 2
fi
project=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
exec "$(bash "$project/scripts/python.sh")" -u "$project/src/convert.py" --file_path "$1" --output_dir "$2" "${@:3}"
