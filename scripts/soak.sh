#!/usr/bin/env bash
# Train for so many minutes while killing, stopping, resuming and corrupting at random; prove that nothing was lost.
#
#   bash scripts/soak.sh 15 [RANKS]
#
# Ends with 0 only if every disturbed training ended with the weights of the undisturbed one, bit for bit.
set -euo pipefail
if [[ $# -lt 1 || ! $1 =~ ^[0-9]+$ || ! ${2:-1} =~ ^[0-9]+$ ]]; then
    echo "usage: bash scripts/soak.sh MINUTES [RANKS]" >&2
    exit 2
fi
project=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
exec "$(bash "$project/scripts/python.sh")" -u "$project/scripts/soak.py" "$@"
