#!/usr/bin/env bash
# Everything that is measured on one GPU, in parts of under 9 minutes; correctness first, a page and one JSON at the end.
#   bash scripts/bench/gpu.sh [--quick] [--part NAME]... [--output_dir DIR] [--data DIR] [--model DIR]
#
#   --quick       the same code on small shapes, on whatever device there is: proves the benchmark, measures nothing
#   --part NAME   that part only, or those (check, matmul, pretrain-1.8b-2048, ...); all by default
#   --data DIR    real documents and questions (documents/, mmedbench/); the sample where they are not there
#   --model DIR   SmolLM2-135M or another real small model; models/smollm2-135m by default, random weights without
#
# The page and the JSON are assets/benchmarks/GPU_DATE.*; with --quick report.* of the output folder (default
# runs/bench-gpu). No network is used. The same command goes on: what is measured stays. Exit codes: 0 done, 4 the check
# failed (nothing is timed), 5 some measures failed or took longer (the others are there).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
[[ ! -f .venv/bin/activate ]] || source .venv/bin/activate
export HF_HUB_OFFLINE=1 PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} # a machine lent for an hour has no environment of ours

all=(matmul pretrain-135m-2048 pretrain-1.8b-2048 pretrain-1.8b-8192 pretrain-8b-2048 pretrain-8b-8192 profile
  finetune-1.8b-full finetune-8b-lora evaluate-1.8b evaluate-8b real)
parts=() words=()
while (($#)); do
  case $1 in
    --quick) words+=(--quick true) ;;
    --part) parts+=("$2") && shift ;;
    --output_dir | --data | --model) words+=("$1" "$2") && shift ;;
    -h | --help) sed -n '2,/^set -e/{/^set -e/d;s/^# \{0,1\}//;p}' scripts/bench/gpu.sh && exit 0 ;;
    *) echo "error: unknown argument $1 (--help lists them)" >&2 && exit 2 ;;
  esac
  shift
done
((${#parts[@]})) || parts=("${all[@]}")
for name in "${parts[@]}"; do
  [[ " check ${all[*]} " == *" $name "* ]] || { echo "error: no part $name; there are check ${all[*]}" >&2 && exit 2; }
done

part() { # of bench_gpu.py: at most 8 minutes, all that it started included
  timeout --kill-after 20 480 python scripts/bench/bench_gpu.py --part "$1" "${words[@]}"
}

part check || exit 4 # wrong work is not timed
failed=()
for name in "${parts[@]}"; do
  [[ $name == check ]] || part "$name" || failed+=("$name")
done
python scripts/bench/bench_gpu.py --part report "${words[@]}"
if ((${#failed[@]})); then
  echo "error: in these parts something failed or took more than 8 minutes: ${failed[*]}; the same command goes on" >&2
  exit 5
fi
