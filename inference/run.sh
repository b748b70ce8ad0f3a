#!/usr/bin/env bash
#SBATCH --job-name=eval
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --requeue
#SBATCH --open-mode=append
# Ask a model the benchmark's questions and score its answers, on a cluster or here; the same command goes on:
#   sbatch inference/run.sh [ARGUMENTS...]                 (python inference/eval.py --help lists them)
#   bash inference/run.sh [ARGUMENTS...]
set -euo pipefail

# sbatch runs a copy of this script, from whose place the repository cannot be told.
root=$(dirname "${BASH_SOURCE[0]}")/..
if [[ -f $root/scripts/launch.sh ]]; then cd "$root"; else cd "$SLURM_SUBMIT_DIR"; fi
source scripts/launch.sh
move_log eval
code=0
python inference/eval.py "$@" || code=$?
finish "$code"
