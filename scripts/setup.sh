#!/usr/bin/env bash
# Make the project's .venv with the packages of a requirements file, once: setup.sh [requirements.txt].
# PYTHON names another interpreter than python3. A finished set-up is not done again until that file changes.
set -euo pipefail
project=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
requirements=$project/${1:-requirements.txt}
sum=$(cat "$project"/requirements*.txt | sha256sum | cut -c1-16)
stamp=$project/.venv/installed-$(basename "$requirements")-$sum
[[ -f $stamp || -f $project/.venv/installed-requirements-dev.txt-$sum ]] && exit 0
[[ -x $project/.venv/bin/python ]] || "${PYTHON:-python3}" -m venv "$project/.venv"
echo "installing $(basename "$requirements") into $project/.venv"
"$project/.venv/bin/python" -m pip install --quiet --disable-pip-version-check -r "$requirements"
touch "$stamp"
