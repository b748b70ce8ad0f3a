#!/usr/bin/env bash
#SBATCH --job-name=finetune
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@300
# Fine-tune a language model on questions, on a cluster or here; starts, resumes, or says "already done":
#   sbatch [--nodes=4] finetune/run.sh [ARGUMENTS...]      (python finetune/train.py --help lists them)
#   bash finetune/run.sh [ARGUMENTS...]
set -euo pipefail

# sbatch runs a copy of this script, from whose place the repository cannot be told.
root=$(dirname "${BASH_SOURCE[0]}")/..
if [[ -f $root/scripts/launch.sh ]]; then cd "$root"; else cd "$SLURM_SUBMIT_DIR"; fi
source scripts/launch.sh
move_log finetune
run_training finetune/train.py "$@"
