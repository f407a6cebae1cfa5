#!/usr/bin/env bash
# Install what the tests need into .venv and run them all; arguments go to pytest.
#
#   bash scripts/run_tests.sh
#
# Real faces are taken from ../shared/faces or $LIGHTCNN_FACES; tests that need them say so where they are absent.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash scripts/setup.sh requirements-dev.txt
.venv/bin/python -m ruff check .
exec .venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder "$@"
