#!/usr/bin/env bash
#SBATCH --job-name=data
#SBATCH --cpus-per-task=8
#SBATCH --mem-per-cpu=4G
# One step of data collection, on a cluster or here:
#   sbatch [--array=0-7] data_collection/run.sh STEP ARGUMENTS...
#   bash data_collection/run.sh STEP ARGUMENTS...          STEP: ocr, filter (--help after it lists its arguments)
set -euo pipefail

# sbatch runs a copy of this script, so only plain bash can tell the repository from the script's own place.
if [[ -n ${SLURM_JOB_ID:-} ]]; then cd "$SLURM_SUBMIT_DIR"; else cd "$(dirname "${BASH_SOURCE[0]}")/.."; fi
step=${1:-}
if [[ ! -f data_collection/run.sh || ! $step =~ ^(ocr|filter)$ ]]; then
  echo "usage, from the repository root: data_collection/run.sh ocr|filter ARGUMENTS... (found '$step' in $PWD)" >&2
  exit 2
fi

# An #SBATCH --output in a folder that is not there yet would end the job before it starts, without a word (Slurm before
# 23.11). So the log is Slurm's default one, slurm-ID.out where sbatch was called, and moves while it is being written.
log=$(readlink "/proc/$$/fd/1")
if [[ -n ${SLURM_JOB_ID:-} && ${log##*/} == slurm-*.out && ${log%/*} -ef . ]]; then
  mkdir -p runs/logs
  mv "$log" "runs/logs/$SLURM_JOB_NAME-$step-${log##*/slurm-}"
fi

# shellcheck disable=SC1091
if [[ -f configs/site.env ]]; then source configs/site.env; fi
# shellcheck disable=SC1091
if [[ -f .venv/bin/activate ]]; then source .venv/bin/activate; fi

code=0
python "data_collection/$step.py" "${@:2}" || code=$?
# 5: done, with failed items, which run.json and failures.jsonl name. They must not break a chain of jobs.
if [[ $code == 5 && -n ${SLURM_JOB_ID:-} ]]; then code=0; fi
exit "$code"
