# Stages that need each other, submitted to Slurm as dependent jobs or run in order where there is none; scripts that
# are made of such stages source this. They set `output_dir`, `local` and `dry_run` ("" or yes) and have scripts/shell.sh.
# shellcheck shell=bash

# shellcheck disable=SC2154
run=$output_dir logs=$output_dir/logs slurm=""
use_environment
# shellcheck disable=SC2154
if [[ -z $local ]] && command -v sbatch >/dev/null && sinfo -h >/dev/null 2>&1; then slurm=yes; fi
declare -A job=()  # stage to its Slurm job
declare -A left=() # stage to the job of an earlier command, and what that was to do
declare -A anew=() # stages whose output will be another than those after them have begun with
stages=()          # in order
submitted=()       # jobs of this command

# What an earlier command left at work in this folder: a process of it holds the lock, a job says so in its comment.
begin_stages() {
  local id name comment
  if ! mkdir -p "$logs" || [[ ! -w $run ]]; then
    printf 'error: the output folder cannot be written\n  where: --output_dir %s\n  what to do: %s\n' "$(realpath -m "$run")" \
      "give a folder that you may write to" >&2
    exit 4
  fi
  exec 9>"$run/.lock"
  flock -n 9 || { echo "waiting: another command works in $run" >&2 && flock 9; }
  [[ -n $slurm ]] || return 0
  while IFS='|' read -r id name comment; do
    [[ ${comment% *} != "$(realpath "$run")" ]] || left[$name]="$id ${comment##* }"
  done < <(squeue --me -h -o '%i|%j|%k')
}

end_left() { # stage
  local id=${left[$1]% *}
  unset "left[$1]"
  echo "ending job $id ($1) of an earlier command in $run" >&2
  scancel "$id" || true
  while [[ -n $(squeue -h -j "$id" 2>/dev/null) ]]; do sleep 1; done
}

fingerprint() { # of words, and of the settings in those that are files of such
  local word
  for word in "$@"; do
    printf '%s\0' "$word"
    [[ $word != *.yaml || ! -f $word ]] || cat "$word"
  done | sha256sum | cut -c1-16
}

failed() { # stage, exit code
  if [[ $2 == 130 || $2 == 143 ]]; then
    echo "stopped in the stage $1; the same command goes on from there" >&2
    exit "$2"
  fi
  echo "error: the stage $1 failed with code $2; its log is $logs/$1.log:" >&2
  # The last message of ours, which torchrun and srun bury under theirs; else the log's end.
  awk '/^error:/ { start = NR; text = "" } start && NR < start + 10 { text = text $0 "\n" }
    { last = $0 } END { printf "%s", text ? text : last "\n" }' "$logs/$1.log" >&2 || true
  echo "the same command goes on from there" >&2
  exit "$2"
}

refused() { # stage whose job Slurm did not take; those before it would run for nothing
  ((${#submitted[@]} == 0)) || scancel "${submitted[@]}"
  printf 'error: Slurm did not take the job of the stage %s\n  found: %s\n  what to do: %s\n' "$1" "its message above" \
    "correct SBATCH_PARTITION, SBATCH_ACCOUNT, ... in the environment or in configs/site.env; then the same command" >&2
  exit 4
}

show() { # a command as one could type it
  printf '%q' "$1" && printf ' %q' "${@:2}" && echo
}

# stage NAME "NAMES IT NEEDS" "SBATCH OPTIONS" COMMAND...
stage() {
  local name=$1 needs=$2 options=$3 code=0 dependency="" need what
  shift 3
  stages+=("$name")
  if [[ -n $slurm ]]; then
    what=$(fingerprint "$options" "$@")
    for need in $needs; do
      dependency+=:${job[$need]}
      [[ -z ${anew[$need]:-} ]] || anew[$name]=yes
    done
    if [[ -n ${left[$name]:-} && ${left[$name]#* } == "$what" && -z ${anew[$name]:-} ]]; then
      job[$name]=${left[$name]% *}
      unset "left[$name]"
      echo "goes on: job ${job[$name]}: $name" >&2
      return
    fi
    if [[ -n ${left[$name]:-} ]]; then
      anew[$name]=yes
      end_left "$name"
    fi
    # shellcheck disable=SC2206
    local words=(sbatch --parsable --job-name="$name" --output="$logs/$name.log" --open-mode=append $options)
    words+=(--comment="$(realpath -m "$run") $what")
    [[ -z $dependency ]] || words+=(--dependency="afterok$dependency" --kill-on-invalid-dep=yes)
    words+=("$@")
    if [[ -n $dry_run ]]; then
      job[$name]="<$name>" && show "${words[@]}"
    else
      job[$name]=$("${words[@]}") || refused "$name"
      submitted+=("${job[$name]}")
      echo "submitted ${job[$name]}: $name" >&2
    fi
  elif [[ -n $dry_run ]]; then
    show bash "$@"
  else
    echo "== $name ($(date +%H:%M:%S)), output $run, log $logs/$name.log" >&2
    { bash "$@" 2>&1 >/dev/null | tee -ai "$logs/$name.log" >&2; } || code=$?
    [[ $code == 0 || $code == 5 ]] || failed "$name" "$code"
  fi
}

state_of() { # job: its state and exit code; from the controller, or from the accounting once it has forgotten the job
  scontrol -o show job "$1" 2>/dev/null | sed -nE 's/.* JobState=([A-Z_]+) .* ExitCode=([0-9]+):.*/\1 \2/p' | grep . ||
    sacct -nXP -j "$1" -o State,ExitCode 2>/dev/null | sed -nE 's/^([A-Z_]+).*\|([0-9]+):.*/\1 \2/p' | grep . ||
    echo "UNKNOWN 1"
}

# Until each job has ended; the first that failed, of which those after it were cancelled, ends the script.
wait_for_stages() {
  local shown="" missed=0 waiting name state code
  [[ -n $slurm ]] || return 0
  for name in "${!left[@]}"; do end_left "$name"; done # of stages that there are no more
  trap 'echo "interrupted; the jobs go on: the same command waits for them, scancel ${job[*]} ends them" >&2
    exit 130' INT
  while true; do # a controller that does not answer for a while is asked again
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
  for name in "${stages[@]}"; do
    read -r state code <<<"$(state_of "${job[$name]}")"
    [[ $state == COMPLETED ]] || failed "$name" "$((code ? code : 1))"
  done
}
