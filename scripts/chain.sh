#!/usr/bin/env bash
# The whole chain, raw text to score table: submitted to Slurm as dependent jobs, or run in order where there is none.
#   bash scripts/chain.sh --data DIR --output_dir RUN [--settings DIR] [--model MODEL] [--nodes N] [--local] [--dry_run]
#
#   --data DIR        a set of everything: documents/LANG.*.jsonl, mmedbench/{Train,Test}/, pdf/pages/LANG/
#   --output_dir RUN  one sub-folder a stage; at the end RUN/report.html and RUN/table.md
#   --settings DIR    prepare.yaml, pretrain.yaml, finetune.yaml, eval.yaml (default configs/demo)
#   --model MODEL     the model to begin with (default models/smollm2-135m)
#   --nodes N         nodes of the pretraining job (default 1)
#   --local           run in order even where there is sbatch
#   --dry_run         print the commands only
#
# Waits for the jobs; typed again, for those of before, but for those whose command or settings have changed and those
# after them, which are ended and submitted anew.
# Exit codes: 0 done, 5 done but for failed items (listed), else that of the stage that failed, which is named with its log.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

data="" output_dir="" settings=configs/demo model=models/smollm2-135m nodes=1 local="" dry_run=""
source scripts/shell.sh
read_arguments "data output_dir settings model nodes" "local dry_run" "$@"
if [[ -z $data || -z $output_dir ]]; then
  echo "error: --data and --output_dir are wanted (--help)" >&2
  exit 2
fi
source scripts/stages.sh

languages() { # of the files of a kind: documents or PDFs
  case $1 in
    documents) for path in "$data"/documents/*.jsonl*; do basename "$path" | cut -d. -f1; done | sort -u ;;
    pdf) for path in "$data"/pdf/pages/*/; do basename "$path"; done | sort -u ;;
  esac
}

require_input() { # what a stage hours from now would miss or refuse: settings, languages, questions, the model
  local name
  for name in prepare pretrain finetune eval; do
    if [[ ! -f $settings/$name.yaml ]]; then
      printf 'error: a file of settings is missing\n  where: --settings %s\n  wanted: %s\n  what to do: %s\n' \
        "$(realpath -m "$settings")" "prepare.yaml, pretrain.yaml, finetune.yaml and eval.yaml in it" \
        "copy configs/demo and change the copy" >&2
      exit 3
    fi
  done
  python -c '
import sys
from configs.errors import run
from configs.languages import language
from data_collection.questions.mmedbench import find_files
from pretrain.models import find_model
from scripts.stage_settings import check_settings

def check(data, model, languages, settings):
    for code in languages.splitlines():
        language(code)
    for split in ("Train", "Test"):
        find_files(data, split)
    find_model(model)
    check_settings(
        (name, ("--config", f"{settings}/{name}.yaml")) for name in ("prepare", "pretrain", "finetune", "eval")
    )

run(lambda: check(*sys.argv[1:]))' "$data" "$model" "$all" "$settings"
}

shopt -s nullglob
all=$( (languages documents && languages pdf) | sort -u)
if [[ -z $all ]]; then
  printf 'error: there are no documents\n  where: --data %s\n  wanted: %s\n  what to do: %s\n' "$(realpath -m "$data")" \
    "documents/LANG.*.jsonl or pdf/pages/LANG/ in it" "give a folder of this layout, such as assets/sample" >&2
  exit 3
fi
if [[ -z $dry_run ]]; then
  require_input
  begin_stages
fi
books=" $(languages pdf | tr '\n' ' ') "
filters=()
filtered=()
for lang in $books; do
  stage "ocr-$lang" "" "--cpus-per-task=2" data_collection/run.sh ocr --input "$data/pdf/pages/$lang" \
    --output_dir "$run/ocr/$lang" --lang "$lang"
done
for lang in $all; do
  inputs=("$data"/documents/"$lang".*)
  needs=""
  if [[ $books == *" $lang "* ]]; then inputs+=("$run/ocr/$lang") needs=ocr-$lang; fi
  stage "filter-$lang" "$needs" "--cpus-per-task=2" data_collection/run.sh filter --input "${inputs[@]}" \
    --output_dir "$run/filter/$lang" --lang "$lang"
  filters+=("filter-$lang")
  filtered+=("$run/filter/$lang")
done
stage dedup "${filters[*]}" "--cpus-per-task=2" data_collection/run.sh dedup --input "${filtered[@]}" \
  --output_dir "$run/dedup"
stage decontaminate dedup "--cpus-per-task=2" data_collection/run.sh decontaminate --input "$run/dedup" --test "$data" \
  --output_dir "$run/corpus"
stage prepare decontaminate "--gpus-per-node=0" pretrain/run.sh prepare --config "$settings/prepare.yaml" \
  --input "$run/corpus" --output_dir "$run/blocks" --model_name_or_path "$model"
stage pretrain prepare "--nodes=$nodes" pretrain/run.sh --config "$settings/pretrain.yaml" \
  --data "$run/blocks" --model_name_or_path "$model" --output_dir "$run/pretrain"
stage finetune pretrain "" finetune/run.sh --config "$settings/finetune.yaml" \
  --data "$data" --model_name_or_path "$run/pretrain" --output_dir "$run/finetune"
stage eval-base "" "" inference/run.sh --config "$settings/eval.yaml" --data "$data" \
  --model_name_or_path "$model" --label base --output_dir "$run/eval-base"
stage eval-tuned finetune "" inference/run.sh --config "$settings/eval.yaml" --data "$data" \
  --model_name_or_path "$run/finetune" --output_dir "$run/eval-tuned"

[[ -z $dry_run ]] || exit 0

wait_for_stages
code=0
page=$(python scripts/report.py "$run") || code=$?
[[ ! -f $run/table.md ]] || cat "$run/table.md"
echo "$page"
exit "$code"
