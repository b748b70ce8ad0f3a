#!/usr/bin/env bash
# Lint, import contracts and all tests; installs what is missing first (Slurm and Tesseract included).
#   bash scripts/test.sh [PYTEST ARGUMENTS...]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bash scripts/setup.sh --slurm
source .venv/bin/activate
python scripts/download.py smollm2-135m
ruff check .
ruff format --check .
lint-imports
python -m pytest "$@"
