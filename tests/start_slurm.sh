#!/usr/bin/env bash
# Starts a single-node Slurm without touching the settings of the machine:
#
#   bash tests/start_slurm.sh DIR     # Debian: apt-get install slurmctld slurmd slurm-client munge
#   export SLURM_CONF=DIR/slurm.conf
#   bash tests/start_slurm.sh DIR stop
#
# It runs as the current user on the loopback interface, with all files and logs in DIR. The node
# has four fake GPUs, which the scripts in launch/ request.
set -euo pipefail
folder=$(realpath -m "$1")
PATH=$PATH:/usr/sbin:/sbin

stop() { # only the daemons of this folder, slurmd first
  for name in slurmd slurmctld munged; do
    if [ -e "$folder/$name.pid" ] && pid=$(cat "$folder/$name.pid") && kill "$pid" 2>/dev/null; then
      for _ in $(seq 100); do
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.1
      done
      kill -9 "$pid" 2>/dev/null || true
    fi
  done
}

if [ "${2:-}" = stop ]; then
  stop
  exit
fi

mkdir -p "$folder"/{state,spool}
chmod 755 "$folder"
read -r control node < <(python3 - <<'PORTS'
import socket

sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
print(*(s.getsockname()[1] for s in sockets))
PORTS
)
(umask 077 && head -c 128 /dev/urandom > "$folder/munge.key")

cat > "$folder/slurm.conf" <<CONF
ClusterName=tests
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort=$control
SlurmdPort=$node
CommunicationParameters=NoAddrCache
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
AuthType=auth/munge
# A requeued job starts when its credentials have expired.
AuthInfo=socket=$folder/munge.socket,cred_expire=5
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
PlugStackConfig=/dev/null
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=bf_interval=1,sched_interval=1
# Allows more CPUs than the machine has.
SlurmdParameters=config_overrides
GresTypes=gpu
ReturnToService=2
NodeName=localhost NodeAddr=127.0.0.1 NodeHostname=localhost CPUs=8 Gres=gpu:4 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=YES
CONF
printf "Name=gpu File=/dev/%s\n" null zero full random > "$folder/gres.conf"
export SLURM_CONF=$folder/slurm.conf

munged --key-file="$folder/munge.key" --socket="$folder/munge.socket" \
  --pid-file="$folder/munged.pid" --log-file="$folder/munged.log" \
  --seed-file="$folder/munge.seed" --num-threads=1 --force > "$folder/start.log" 2>&1
slurmctld >> "$folder/start.log" 2>&1
slurmd -N localhost >> "$folder/start.log" 2>&1
for _ in $(seq 200); do
  if [ "$(sinfo --noheader --format=%t 2>/dev/null)" = idle ]; then
    exit
  fi
  sleep 0.1
done
echo "error: $folder: Slurm does not start; see its logs:" >&2
tail -n 20 "$folder"/*.log >&2
stop
exit 1
