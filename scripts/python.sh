#!/usr/bin/env bash
# Print the Python that the launchers use: $PYTHON, the active environment's, the project's .venv, or python3.
project=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
if [[ -n ${PYTHON:-} ]]; then echo "$PYTHON"
elif [[ -n ${VIRTUAL_ENV:-}${CONDA_PREFIX:-} ]]; then command -v python
elif [[ -x $project/.venv/bin/python ]]; then echo "$project/.venv/bin/python"
else command -v python3
fi
