#!/usr/bin/env bash
# An ablation: which parts of the corpus go into pretraining, and how is then fine-tuned, a row of the table each.
#   bash scripts/ablation.sh --config FILE.yaml --output_dir RUN [--nodes N] [--local] [--dry_run]
#
#   --config FILE     the rows, their corpus and settings (python scripts/ablation.py --help; configs/ablation/)
#   --output_dir RUN  one sub-folder a stage and row; at the end RUN/ablation.md, .csv, .tex, .svg and .png
#   --nodes N         nodes of each pretraining job (default 1)
#   --local           run in order even where there is sbatch
#   --dry_run         print the commands only
#
# Rows with the same corpus share its pretraining. The same command goes on where it was, also with further rows.
# Exit codes: 0 done, 5 done but for failed items (listed), else that of the stage that failed, named with its log.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

config="" output_dir="" nodes=1 local="" dry_run=""
source scripts/shell.sh
read_arguments "config output_dir nodes" "local dry_run" "$@"
if [[ -z $config || -z $output_dir ]]; then
  echo "error: --config and --output_dir are wanted (--help)" >&2
  exit 2
fi
source scripts/stages.sh

step=plan
if [[ -n $dry_run ]]; then step=plan_unchecked; fi
plan=$(python scripts/ablation.py --config "$config" --output_dir "$run" --nodes "$nodes" --step "$step")
[[ -n $dry_run ]] || begin_stages
# A line a stage: name, names it needs, sbatch options, and the command quoted for the shell.
while IFS=$'\x1f' read -r -u 3 name needs options command; do
  eval "words=($command)"
  # shellcheck disable=SC2154
  stage "$name" "$needs" "$options" "${words[@]}"
done 3<<<"$plan"
[[ -z $dry_run ]] || exit 0
wait_for_stages
exec python scripts/ablation.py --config "$config" --output_dir "$run"
