#!/usr/bin/env bash
#SBATCH --job-name=pretrain
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@300
# Continue the pretraining of a language model, on a cluster or here; starts, resumes, or says "already done":
#   sbatch [--nodes=4] pretrain/run.sh [ARGUMENTS...]      (python pretrain/train.py --help lists them)
#   bash pretrain/run.sh [ARGUMENTS...]
# or make its token blocks, on processors only:
#   sbatch --gpus-per-node=0 pretrain/run.sh prepare ARGUMENTS...
set -euo pipefail

# sbatch runs a copy of this script, from whose place the repository cannot be told.
root=$(dirname "${BASH_SOURCE[0]}")/..
if [[ -f $root/scripts/launch.sh ]]; then cd "$root"; else cd "$SLURM_SUBMIT_DIR"; fi
source scripts/launch.sh
if [[ ${1:-} == prepare ]]; then
  move_log prepare
  code=0
  trap '' USR1 # for training; tokenizing goes on where it was killed
  python pretrain/prepare.py "${@:2}" || code=$?
  finish "$code"
fi
move_log pretrain
run_training pretrain/train.py "$@"
