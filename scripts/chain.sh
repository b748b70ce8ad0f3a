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
# Waits for the jobs. Exit codes: 0 done, 5 done but for failed items (listed), else that of the stage that failed,
# which is named with its log.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

data="" run="" settings=configs/demo model=models/smollm2-135m nodes=1 dry_run="" slurm=""
if command -v sbatch >/dev/null && sinfo -h >/dev/null 2>&1; then slurm=yes; fi
while (($#)); do
  case $1 in
    --data) data=$2 && shift ;;
    --output_dir) run=$2 && shift ;;
    --settings) settings=$2 && shift ;;
    --model) model=$2 && shift ;;
    --nodes) nodes=$2 && shift ;;
    --local) slurm="" ;;
    --dry_run) dry_run=yes ;;
    -h | --help) sed -n '2,/^set -e/{/^set -e/d;s/^# \{0,1\}//;p}' "$0" && exit 0 ;;
    *) echo "error: unknown argument $1 (--help lists them)" >&2 && exit 2 ;;
  esac
  shift
done
if [[ -z $data || -z $run ]]; then
  echo "error: --data and --output_dir are wanted (--help)" >&2
  exit 2
fi
# shellcheck disable=SC1091
if [[ -f configs/site.env ]]; then set -a && source configs/site.env && set +a; fi
# shellcheck disable=SC1091
if [[ -f .venv/bin/activate ]]; then source .venv/bin/activate; fi
logs=$run/logs
if [[ -z $dry_run ]]; then
  mkdir -p "$logs"
  # What an earlier, killed chain left at work in this folder: a process of it holds the lock, a job bears the comment.
  exec 9>"$run/.lock"
  flock -n 9 || { echo "waiting: another chain works in $run" >&2 && flock 9; }
  if [[ -n $slurm ]]; then
    left=$(squeue --me -h -o '%i|%k' | awk -F'|' -v run="$(realpath "$run")" '$2 == run {print $1}')
    for id in $left; do
      echo "ending job $id of an earlier chain in $run" >&2
      scancel "$id"
      while [[ -n $(squeue -h -j "$id" 2>/dev/null) ]]; do sleep 1; done
    done
  fi
fi

declare -A job=() # stage to its Slurm job
stages=()         # in order

failed() { # stage, exit code
  echo "error: the stage $1 failed with code $2; its log is $logs/$1.log:" >&2
  # The last message of ours, which torchrun and srun bury under theirs; else the log's end.
  awk '/^error:/ { start = NR; text = "" } start && NR < start + 10 { text = text $0 "\n" }
    { last = $0 } END { printf "%s", text ? text : last "\n" }' "$logs/$1.log" >&2 || true
  echo "the same command goes on from there" >&2
  exit "$2"
}

# stage NAME "NAMES IT NEEDS" "SBATCH OPTIONS" COMMAND...
stage() {
  local name=$1 needs=$2 options=$3 code=0 dependency="" need
  shift 3
  stages+=("$name")
  if [[ -n $slurm ]]; then
    for need in $needs; do dependency+=:${job[$need]}; done
    # shellcheck disable=SC2206
    local words=(sbatch --parsable --job-name="$name" --output="$logs/$name.log" --open-mode=append $options)
    words+=(--comment="$(realpath -m "$run")")
    [[ -z $dependency ]] || words+=(--dependency="afterok$dependency" --kill-on-invalid-dep=yes)
    words+=("$@")
    if [[ -n $dry_run ]]; then
      job[$name]="<$name>" && echo "${words[*]}"
    else
      job[$name]=$("${words[@]}") && echo "submitted ${job[$name]}: $name" >&2
    fi
  elif [[ -n $dry_run ]]; then
    echo "bash $*"
  else
    echo "== $name ($(date +%H:%M:%S)), output $run, log $logs/$name.log" >&2
    { bash "$@" 2>&1 >/dev/null | tee -a "$logs/$name.log" >&2; } || code=$?
    [[ $code == 0 || $code == 5 ]] || failed "$name" "$code"
  fi
}

languages() { # of the files of a kind: documents or PDFs
  case $1 in
    documents) for path in "$data"/documents/*.jsonl*; do basename "$path" | cut -d. -f1; done | sort -u ;;
    pdf) for path in "$data"/pdf/pages/*/; do basename "$path"; done | sort -u ;;
  esac
}

shopt -s nullglob
books=" $(languages pdf | tr '\n' ' ') "
filters=()
filtered=()
for lang in $books; do
  stage "ocr-$lang" "" "--cpus-per-task=2" data_collection/run.sh ocr --input "$data/pdf/pages/$lang" \
    --output_dir "$run/ocr/$lang" --lang "$lang"
done
for lang in $( (languages documents && languages pdf) | sort -u); do
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

state_of() { # job: its state and exit code; from the controller, or from the accounting once it has forgotten the job
  scontrol -o show job "$1" 2>/dev/null | sed -nE 's/.* JobState=([A-Z_]+) .* ExitCode=([0-9]+):.*/\1 \2/p' | grep . ||
    sacct -nXP -j "$1" -o State,ExitCode 2>/dev/null | sed -nE 's/^([A-Z_]+).*\|([0-9]+):.*/\1 \2/p' | grep . ||
    echo "UNKNOWN 1"
}

if [[ -n $slurm ]]; then
  trap 'echo "interrupted; the jobs go on (scancel ${job[*]} ends them)" >&2; exit 130' INT
  shown="" missed=0
  while true; do # until each job has ended; a controller that does not answer for a while is asked again
    waiting=""
    for name in "${stages[@]}"; do
      read -r state code <<<"$(state_of "${job[$name]}")"
      case $state in
        COMPLETED | FAILED | CANCELLED | TIMEOUT | NODE_FAIL | OUT_OF_MEMORY | BOOT_FAIL | DEADLINE | PREEMPTED) ;;
        *) waiting+="$name $state, " ;;
      esac
    done
    missed=$((missed + 1))
    [[ $waiting == *UNKNOWN* ]] || missed=0
    if [[ -z $waiting ]] || ((missed > 30)); then break; fi
    [[ $waiting == "$shown" ]] || echo "$(date +%H:%M:%S) ${waiting%, }" >&2
    shown=$waiting
    sleep 2
  done
  for name in "${stages[@]}"; do # in order: the first that failed is the cause, those after it were cancelled
    read -r state code <<<"$(state_of "${job[$name]}")"
    [[ $state == COMPLETED ]] || failed "$name" "$((code ? code : 1))"
  done
fi
code=0
page=$(python scripts/report.py "$run") || code=$?
[[ ! -f $run/table.md ]] || cat "$run/table.md"
echo "$page"
exit "$code"
