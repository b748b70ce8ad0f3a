#!/usr/bin/env bash
# Everything that is measured on one GPU, in parts of under 9 minutes; correctness first, a table and one JSON at the end.
#   bash scripts/bench/gpu.sh [--quick] [--part NAME] [--output_dir DIR] [--data DIR]
#
#   --quick       the same code on small shapes, on whatever device there is: proves the benchmark, measures nothing
#   --part NAME   that part only (check, matmul, pretrain-1.8b-2048, ...); all by default
#
# The page and the JSON are assets/benchmarks/GPU_DATE.*; with --quick report.* of the output folder (default
# runs/bench-gpu). No network is used. Exit codes: 0 done, 4 a part failed or took longer (the others have run,
# unless it was the check).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
[[ ! -f .venv/bin/activate ]] || source .venv/bin/activate
export HF_HUB_OFFLINE=1

parts=(matmul pretrain-135m-2048 pretrain-1.8b-2048 pretrain-1.8b-8192 pretrain-8b-2048 pretrain-8b-8192)
words=()
while (($#)); do
  case $1 in
    --quick) words+=(--quick true) ;;
    --part) parts=("$2") && shift ;;
    --output_dir | --data) words+=("$1" "$2") && shift ;;
    -h | --help) sed -n '2,/^set -e/{/^set -e/d;s/^# \{0,1\}//;p}' "$0" && exit 0 ;;
    *) echo "error: unknown argument $1 (--help lists them)" >&2 && exit 2 ;;
  esac
  shift
done

python scripts/bench/bench_gpu.py --part check "${words[@]}" || exit 4 # wrong work is not timed
failed=()
for part in "${parts[@]}"; do
  [[ $part != check && $part != report ]] || continue
  timeout --kill-after 10 540 python scripts/bench/bench_gpu.py --part "$part" "${words[@]}" || failed+=("$part")
done
python scripts/bench/bench_gpu.py --part report "${words[@]}"
if ((${#failed[@]})); then
  echo "error: these parts failed or took more than 9 minutes: ${failed[*]}" >&2
  exit 4
fi
