#!/usr/bin/env bash
#SBATCH --job-name=data
#SBATCH --cpus-per-task=8
#SBATCH --mem-per-cpu=4G
#SBATCH --requeue
#SBATCH --open-mode=append
# One step of data collection, on a cluster or here:
#   sbatch data_collection/run.sh STEP ARGUMENTS...        spreads itself over an array, as large as the work left wants
#   sbatch --array=0-7 data_collection/run.sh STEP ARGUMENTS...        an array of your own
#   bash data_collection/run.sh STEP ARGUMENTS...          STEP: a script of this folder (--help lists its arguments)
set -euo pipefail

# sbatch runs a copy of this script, from whose place the repository cannot be told.
root=$(dirname "${BASH_SOURCE[0]}")/..
if [[ -f $root/scripts/launch.sh ]]; then cd "$root"; else cd "$SLURM_SUBMIT_DIR"; fi
step=${1:-}
if [[ ! -f data_collection/run.sh || ! $step =~ ^(ocr|web|merge|filter|preview|calibrate|dedup|decontaminate|report|build_benchmark|rationales|rewrite|translate|topics|describe)$ ]]; then
  echo "usage, from the repository root: data_collection/run.sh ocr|web|merge|filter|preview|calibrate|dedup|decontaminate|" \
    "report|build_benchmark|rationales|rewrite|translate|topics|describe ARGUMENTS... (found '$step' in $PWD)" >&2
  exit 2
fi

source scripts/launch.sh
move_log "$step"
export ARRAY_SCRIPT="data_collection/run.sh $step" # jobs.py submits it when the shards fill more than one task
code=0
python "data_collection/$step.py" "${@:2}" || code=$?
finish "$code"
