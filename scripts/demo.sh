#!/usr/bin/env bash
# From a bare clone to a table of scores: OCR, filter, token blocks, pretraining (DeepSpeed, two processes), LoRA
# fine-tuning and evaluation of the base model and of the result, on the sample or on other data of its layout.
#   bash scripts/demo.sh [--data DIR] [--share S] [--output_dir RUN] [--slurm]
#
#   --data DIR        documents/, mmedbench/ and pdf/pages/ as in assets/sample (the default)
#   --share S         take this share of it, for example 0.05
#   --output_dir RUN  default runs/demo, or runs/demo-NAME-SHARE for other data
#   --slurm           through a real Slurm of two virtual nodes on this machine (needs root)
#
# The same command goes on where it was. Exit codes are those of scripts/chain.sh.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

data=assets/sample share="" output_dir="" slurm=""
source scripts/shell.sh
read_arguments "data share output_dir" slurm "$@"
run=$output_dir
if [[ -z $run ]]; then
  run=runs/demo
  [[ $data -ef assets/sample ]] || run+=-$(basename "$(realpath "$data")")
  [[ -z $share ]] || run+=-$share
  [[ -z $slurm ]] || run+=-slurm
fi

settings=configs/demo # short texts, as the sample's
[[ $data -ef assets/sample ]] || settings=configs/demo_real

start=$SECONDS
bash scripts/setup.sh ${slurm:+--slurm}
source .venv/bin/activate
python scripts/download.py smollm2-135m
if [[ -n $share ]]; then data=$(python scripts/take_share.py --data "$data" --share "$share" --output_dir "$run/data"); fi

# Two processes of training, whether on one machine or on two nodes, so that both ways give the same numbers.
export NUM_PROCESSES=2 HF_HUB_OFFLINE=1
where=(--local)
if [[ -n $slurm ]]; then
  bash scripts/local_slurm.sh start
  trap 'bash scripts/local_slurm.sh stop' EXIT
  # shellcheck disable=SC1091
  source runs/local_slurm/env.sh
  where=(--nodes 2)
fi
code=0
bash scripts/chain.sh --data "$data" --output_dir "$run" --settings "$settings" "${where[@]}" || code=$?
[[ $code != 0 && $code != 5 ]] || echo "done in $(((SECONDS - start) / 60)) minutes" >&2
exit "$code"
