# What the run.sh of every stage shares; they source it from the repository root, under sbatch and under plain bash.
# shellcheck shell=bash

# An #SBATCH --output in a folder that is not there yet would end the job before it starts, without a word (Slurm before
# 23.11). So the log is Slurm's default one, slurm-ID.out where sbatch was called, and moves while it is being written.
move_log() { # name of the work
  local log
  log=$(readlink "/proc/$$/fd/1")
  if [[ -n ${SLURM_JOB_ID:-} && ${log##*/} == slurm-*.out && ${log%/*} -ef . ]]; then
    mkdir -p runs/logs
    mv "$log" "runs/logs/$1-${SLURM_RESTART_COUNT:+life$SLURM_RESTART_COUNT-}${log##*/slurm-}" # a requeued job keeps its id
  fi
}

# Exit code 5 says that the work is done but for some items, which run.json and failures.jsonl name. Under Slurm it
# must not break a chain of jobs, so the job ends with 0.
finish() { # exit code
  if [[ $1 == 5 && -n ${SLURM_JOB_ID:-} ]]; then exit 0; fi
  exit "$1"
}

# Train on all nodes of the job. USR1 (time limit near) and TERM (preemption) let the step in progress end and save a
# checkpoint; then the job requeues itself and the same command goes on. A crashed run is not requeued. TERM may reach
# the training processes alone: their launcher touches the same file.
run_training() { # script and its arguments
  local code=0 training stopped=""
  STOP_FILE=runs/stop/${SLURM_JOB_ID:-$$}
  LOG_FILE=$(readlink -f "/proc/$$/fd/2" || true)
  export STOP_FILE LOG_FILE
  mkdir -p runs/stop && rm -f "$STOP_FILE"
  trap 'touch "$STOP_FILE"; echo "asked to stop: the step in progress ends and is saved" >&2' USR1 TERM
  if [[ -n ${SLURM_JOB_ID:-} ]]; then
    # srun before 23.02 took --cpus-per-task from the job, later ones take it from this variable only.
    export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}
    srun --nodes="$SLURM_NNODES" --ntasks-per-node=1 --kill-on-bad-exit=1 python "$@" &
  else
    python "$@" &
  fi
  training=$!
  while true; do # a trapped signal ends wait early; the training is still there then
    code=0
    wait "$training" || code=$?
    kill -0 "$training" 2>/dev/null || break
  done
  trap - USR1 TERM
  [[ ! -e $STOP_FILE ]] || stopped=yes
  rm -f "$STOP_FILE"
  if [[ -n $stopped && $code == 0 ]]; then
    # Slurm refuses to requeue what salloc started: whoever typed the command types it again.
    if [[ -z ${SLURM_JOB_ID:-} ]] || ! scontrol requeue "$SLURM_JOB_ID"; then exit 143; fi
  fi
  finish "$code"
}

# What libraries will change in later versions is no news to a user of pinned ones.
export PYTHONWARNINGS=${PYTHONWARNINGS:-ignore::FutureWarning}

source scripts/shell.sh
use_environment
