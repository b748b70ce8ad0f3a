#!/usr/bin/env bash
# A model behind an OpenAI-compatible server on this machine and the demo page in front of it; both end together.
#   bash scripts/serve.sh MODEL [ARGUMENTS...]             (python inference/demo.py --help lists them)
#
# MODEL is a folder, an adapter or a hub id. The server is vLLM's where there is a GPU and vLLM, else that of
# transformers; other programs may ask it too, at http://127.0.0.1:$SERVER_PORT/v1 (8000 by default). Ctrl-C or SIGTERM
# ends both. Exit codes: those of the README.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/shell.sh
use_environment

if (($# == 0)) || [[ $1 == -h || $1 == --help ]]; then
  show_help
  exit $(($# == 0 ? 2 : 0))
fi
port=${SERVER_PORT:-8000} cache="" pids=()

listens() { (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; }

# Each child leads a process group of its own, so that what it starts ends with it, and a Ctrl-C reaches us alone.
begin() { # command...
  setsid "$@" &
  pids+=($!)
}

finish() { # both groups: asked to end, made to after 15 s
  trap '' INT TERM
  local pid end=$((SECONDS + 15))
  for pid in "${pids[@]}"; do kill -TERM -- "-$pid" 2>/dev/null || true; done
  for pid in "${pids[@]}"; do
    while kill -0 -- "-$pid" 2>/dev/null && ((SECONDS < end)); do sleep 0.1; done
    kill -KILL -- "-$pid" 2>/dev/null || true
  done
  [[ -z $cache ]] || rm -rf "$cache"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# The folder or hub id, and the whole model that an adapter belongs to; what is wrong with them is said by Python.
found=$(python -c '
import sys
from configs.errors import run
from pretrain.models import base_of, find_model
run(lambda: print(find_model(sys.argv[1]), base_of(find_model(sys.argv[1])), sep="\n"))' "$1")
{ read -r model && read -r base; } <<<"$found"
shift
if listens; then
  printf 'error: the port of the server is taken\n  where: 127.0.0.1:%s\n  what to do: %s\n' "$port" \
    "SERVER_PORT=ANOTHER bash scripts/serve.sh ..., or stop what listens there" >&2
  exit 4
fi

if nvidia-smi -L 2>/dev/null | grep -q GPU && command -v vllm >/dev/null; then
  server=(vllm serve "$base" --host 127.0.0.1 --port "$port")
  # vLLM serves an adapter beside its base model, under a name of its own.
  if [[ $model != "$base" ]]; then # vLLM takes adapters of rank 16 unless told, and only of these
    rank=$(python -c '
import json, sys
rank = json.load(open(sys.argv[1] + "/adapter_config.json"))["r"]
print(next(known for known in (8, 16, 32, 64, 128, 256, 320, 512) if known >= rank))' "$model")
    server+=(--enable-lora --max-lora-rank "$rank" --lora-modules "$model=$model")
  fi
elif [[ $model != "$base" ]]; then
  printf 'error: %s\n  where: %s\n  found: an adapter\n  wanted: a whole model, or a GPU with vLLM\n  what to do: %s\n' \
    "the server of transformers takes no adapters" "$model" \
    "python finetune/merge.py --input $model --output_dir DIR, then DIR; or python inference/demo.py without a server" >&2
  exit 2
else
  server=(transformers serve "$model" --host 127.0.0.1 --port "$port")
  # Its list of models is that of the hub's cache (an error where there is none), in which a folder does not stand.
  if [[ -d $base ]]; then cache=$(mktemp -d) && server=(env HF_HUB_CACHE="$cache" "${server[@]}"); fi
fi
echo "starting ${server[*]}" >&2
begin "${server[@]}" >&2
until listens; do
  if ! kill -0 "${pids[0]}" 2>/dev/null; then
    printf 'error: the server ended before it was ready\n  where: %s\n  what to do: %s\n' "${server[*]}" \
      "see its messages above" >&2
    exit 4
  fi
  sleep 0.3
done

begin python inference/demo.py --model_name_or_path "http://127.0.0.1:$port/v1#$model" "$@"
code=0
wait -n || code=$?
exit "$code"
