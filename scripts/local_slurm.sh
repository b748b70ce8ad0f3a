#!/usr/bin/env bash
# A real Slurm of virtual nodes with declared GPUs on one machine, for tests and demonstrations.
set -euo pipefail

usage() {
  cat <<'HELP'
usage: scripts/local_slurm.sh start|stop|status [options]

  start    bring the cluster up and wait until every node is idle; harmless when it already runs
  stop     end its jobs and daemons and remove its line from /etc/hosts; the logs stay
  status   print sinfo and squeue; exit 0 if every daemon is up, 3 if not

option       variable            default           meaning
--nodes N    LOCAL_SLURM_NODES   2                 virtual nodes, named n1, n2, ...
--cpus N     LOCAL_SLURM_CPUS    64                CPUs declared per node
--gpus N     LOCAL_SLURM_GPUS    8                 GPUs declared per node; none need exist
--port N     LOCAL_SLURM_PORT    17000             port of slurmctld; node i listens at this port + i
--dir DIR    LOCAL_SLURM_DIR     runs/local_slurm  everything is kept here; relative to the repository root

Jobs run as root with the environment of whoever submits them. The nodes share this machine: neither the CPUs and
GPUs declared nor the 2 TiB of memory per node are enforced. `sacct -c` and `scontrol show job` know finished jobs.
A requeued job waits 10 s; a job told to end has 5 s between SIGTERM and SIGKILL. A start forgets earlier jobs.
Exit codes: 0 done, 2 wrong arguments, 3 not running (status), 4 the machine lacks something.
HELP
}

fail() { # code, what, where, found, wanted, what to do
  printf 'local_slurm: %s\n  where:  %s\n  found:  %s\n  wanted: %s\n  do:     %s\n' "${@:2}" >&2
  exit "$1"
}

wait_for() { # seconds, test...: poll until the test holds
  local end=$((SECONDS + $1))
  until "${@:2}"; do
    ((SECONDS < end)) || return 1
    sleep 0.2
  done
}

ours() { # pids of our daemons and of all that our jobs left; not of clients, nor of shells that use this cluster
  local pid
  { grep -lszxF "SLURM_CONF=$conf" /proc/[0-9]*/environ || true; } | while IFS=/ read -r _ _ pid _; do
    if [[ $(cat "/proc/$pid/comm" 2>/dev/null) =~ ^(munged|slurm(ctld|scriptd|d|stepd))$ ]] ||
      grep -qsz '^SLURMD_NODENAME=' "/proc/$pid/environ"; then
      echo "$pid"
    fi
  done
}

dead() { # names of the daemons that do not run, whatever stale pid files say
  local name pid pids
  pids=$(ours)
  for name in munged slurmctld $(ls -v "$dir/spool" 2>/dev/null); do
    pid=$(cat "$dir/run/$name.pid" 2>/dev/null) && grep -qx "${pid:-none}" <<<"$pids" || echo "$name"
  done
}

alive() { [[ -z $(dead) ]]; }
up() { alive && [[ $(scontrol ping 2>/dev/null) == *' UP'* ]]; }
idle() { [[ $(sinfo -hN -o %T 2>/dev/null | grep -cx idle) == "$nodes" ]]; }
drained() { [[ -z $(squeue -h 2>/dev/null) ]]; }
gone() { [[ -z $(ours) ]]; }

hosts() ( # the names to resolve here, none to remove our line; rewritten in place, for the file may be a bind mount
  mark="# local_slurm $dir;"
  exec 8</etc/hosts && flock 8
  if (($#)) || grep -qF "$mark" /etc/hosts; then
    others=$(grep -vF "$mark" /etc/hosts || true)
    printf '%s\n' "$others" ${1+"127.0.0.1 $* $mark"} >/etc/hosts
  fi
)

configure() {
  local host i range="[1-$nodes]" ports="[$((port + 1))-$((port + nodes))]" gres=''
  host=$(uname -n) host=${host%%.*}
  rm -rf "${dir:?}"/{run,log,spool,state,dev}
  mkdir -p "$dir"/{run,log,state,dev} "${names[@]/#/$dir/spool/}"
  for ((i = 0; i < gpus; i++)); do ln -s /dev/null "$dir/dev/nvidia$i"; done # any character device will do
  (umask 077 && head -c 1024 /dev/urandom >"$dir/munge.key")
  ((gpus == 0)) || gres="Gres=gpu:$gpus"
  echo "${gres:+NodeName=n$range Name=gpu File=$dir/dev/nvidia[0-$((gpus - 1))]}" >"$dir/gres.conf"
  echo "export SLURM_CONF=$conf" >"$dir/env.sh"
  cat >"$conf" <<CONF
ClusterName=local
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
SlurmUser=root
# cred_expire is also how long a requeued job waits: 120 s unless set.
AuthInfo=socket=$dir/munge.socket,cred_expire=10
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool/%n
SlurmctldPidFile=$dir/run/slurmctld.pid
SlurmdPidFile=$dir/run/%n.pid
SlurmctldLogFile=$dir/log/slurmctld.log
SlurmdLogFile=$dir/log/%n.log
JobCompType=jobcomp/filetxt
JobCompLoc=$dir/log/jobs.txt
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
GresTypes=gpu
ReturnToService=2
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=1,batch_sched_delay=0,bf_interval=1
KillWait=5
MinJobAge=3600
NodeName=n$range NodeHostname=$host NodeAddr=127.0.0.1 Port=$ports CPUs=$cpus RealMemory=2097152 $gres
PartitionName=local Nodes=ALL Default=YES
CONF
}

spawn() { # name, daemon...: it detaches itself. SLURM_CONF is last: slurmstepd overwrites what comes before it
  env -i PATH="$PATH" SLURM_CONF="$conf" "${@:2}" >>"$dir/log/$1.log" 2>&1 </dev/null 9>&-
}

boot() {
  local name
  spawn munged munged --force --key-file="$dir/munge.key" --seed-file="$dir/munge.seed" \
    --socket="$dir/munge.socket" --pid-file="$dir/run/munged.pid" --log-file="$dir/log/munged.log" || return
  spawn slurmctld slurmctld -c || return
  for name in "${names[@]}"; do spawn "$name" slurmd -N "$name" || return; done
}

stop() {
  local pid signal
  if up; then
    scancel -p local
    wait_for 15 drained || true
  fi
  for signal in TERM KILL; do
    for pid in $(ours); do kill -s "$signal" "$pid" 2>/dev/null || true; done
    if wait_for 5 gone; then break; fi
  done
  rm -f "$dir"/run/*.pid "$dir"/munge.socket*
  hosts
}

start() {
  local i found
  if up; then
    echo "already running with $(sinfo -hN | wc -l) nodes; to change anything, stop it first"
  else
    stop # whatever a killed cluster left
    for ((i = port; i <= port + nodes; i++)); do
      if (: <"/dev/tcp/127.0.0.1/$i") 2>/dev/null; then
        fail 4 'a port is taken' "port $i of this machine" 'something listens there' \
          "ports $port to $((port + nodes)) free" 'choose others with --port or LOCAL_SLURM_PORT'
      fi
    done
    configure
    hosts "${names[@]}"
    if ! { boot && wait_for 20 alive && wait_for 40 idle; }; then
      found="nodes: $(sinfo -hN -o '%N %T' 2>&1 | paste -sd, || true); not running: $(dead | xargs)"
      stop
      fail 4 'the cluster did not come up' "$dir/log" "$found" "$nodes idle nodes within 60 s" \
        'read the logs there, above all of what does not run, mend the cause and start again'
    fi
    echo "running: $nodes nodes of $cpus CPUs and $gpus GPUs, default partition local, logs in $dir/log"
  fi
  echo "source $dir/env.sh"
}

status() {
  up || { echo "not running: $(dead | xargs)" && exit 3; }
  sinfo && squeue
}

nodes=${LOCAL_SLURM_NODES:-2} cpus=${LOCAL_SLURM_CPUS:-64} gpus=${LOCAL_SLURM_GPUS:-8} port=${LOCAL_SLURM_PORT:-17000}
dir=${LOCAL_SLURM_DIR:-runs/local_slurm} action=''
while (($#)); do
  case $1 in
    start | stop | status) action=$1 ;;
    --nodes | --cpus | --gpus | --port | --dir) printf -v "${1#--}" %s "${2-}" && shift $(($# > 1)) ;;
    -h | --help) usage && exit ;;
    *) action='' && break ;;
  esac
  shift
done
[[ "$action $nodes $cpus $port $gpus" =~ ^[a-z]+(\ [1-9][0-9]{0,4}){3}\ (0|[1-9][0-9]?)$ ]] || { usage >&2 && exit 2; }
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PATH=$PATH:/usr/sbin:/sbin
dir=$(realpath -m "$dir") conf=$dir/slurm.conf
export SLURM_CONF=$conf
mapfile -t names < <(seq -f 'n%g' "$nodes")
# Start empties folders in it, so it must not be another's; Slurm's sockets lie in it, of at most 108 characters.
[[ $dir =~ ^[[:alnum:]_./+-]{2,75}$ && (-e $dir/.local_slurm || -z $(ls -A "$dir" 2>/dev/null)) ]] ||
  fail 2 'the folder cannot be used' '--dir or LOCAL_SLURM_DIR' "$dir" \
    'a new, empty or earlier cluster folder; a path of at most 75 of A-Z a-z 0-9 . _ + - /' 'name another'
lacking=$(for name in slurmctld slurmd sbatch munged; do type "$name" &>/dev/null || echo "$name"; done | xargs)
[[ -z $lacking ]] || fail 4 'programs are missing' "PATH=$PATH" "no $lacking" \
  'slurmctld, slurmd, sbatch and munged' 'apt-get install slurmctld slurmd slurm-client munge'
if [[ $action != status ]]; then
  ((EUID == 0)) || fail 4 'only root can do this' 'this shell' "user id $EUID" 'user id 0' 'run it as root'
  [[ -w /etc/hosts ]] || fail 4 'node names cannot be written' /etc/hosts 'read-only' 'writable' 'mount it so'
  [[ $action == start || -d $dir ]] || exit 0
  mkdir -p "$dir" && exec 9>"$dir/.local_slurm" && flock 9 # one start or stop at a time
fi
"$action"
