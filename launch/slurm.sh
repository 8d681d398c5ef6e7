#!/usr/bin/env bash
# Trains on a Slurm cluster, one task a GPU:
#
#   sbatch launch/slurm.sh --config=configs/paper.py --workdir=runs/paper --config.data.dir=data/stage
#
# from the repository's folder; all options go to launch/train.py. THE ONE LINE TO CHANGE is the next:
# nodes, and GPUs a node.
#SBATCH --nodes=2 --ntasks-per-node=8 --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --job-name=jdance
#SBATCH --output=slurm-%j.out
#SBATCH --open-mode=append
# The tasks get SIGTERM two minutes ahead of the time limit or of a preemption with grace time.
#SBATCH --signal=TERM@120
#SBATCH --requeue
#
# At SIGTERM all tasks save a checkpoint together and end with status 75; this script then puts the
# job back into the queue, and it continues where it was. So does Slurm's own requeue (scontrol
# requeue, preemption, a failed node). A disk or a network that fails (status 74) puts the job back,
# too, up to ten times. "scancel JOB" saves, too, and ends the job for good;
# "scancel --signal=TERM JOB" saves and continues later.
#
# One task a node instead, with all its GPUs: --ntasks-per-node=1, and set JDANCE_TASK_PER_NODE=1.
set -uo pipefail

# Compiled programs are kept on each node: a restart does not compile again.
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-${TMPDIR:-/tmp}/jdance-xla-$(id -un)}
# Further XLA flags, all with their own risk: an unknown one stops the program. To the bit the same
# numbers after every restart on GPUs: --xla_gpu_deterministic_ops=true
export XLA_FLAGS=${XLA_FLAGS:-}
# NCCL finds its network by itself. Where it takes the wrong interface, name it (ip -brief address);
# NCCL_DEBUG=INFO tells what it took.
#   export NCCL_SOCKET_IFNAME=ib0
#   export NCCL_DEBUG=INFO
# The processes talk to the first node directly, not through a proxy.
unset http_proxy https_proxy HTTP_PROXY HTTPS_PROXY

# Without this JAX takes one GPU a task, the one with the task's number on its node.
if [ "${JDANCE_TASK_PER_NODE:-}" ]; then
  gpus=${SLURM_GPUS_ON_NODE:-1}
  export JAX_LOCAL_DEVICE_IDS=$(seq -s, 0 $((gpus - 1)))
fi

[ -e .venv/bin/activate ] && source .venv/bin/activate

# The batch script itself must survive the signal, to see how the tasks end. It gets one only where
# Slurm ends the whole job, and then Slurm alone decides whether the job goes back into the queue.
ended=
trap ended=1 TERM
srun --kill-on-bad-exit=0 python launch/train.py "$@" &
step=$!
while kill -0 "$step" 2>/dev/null; do # a signal ends the wait, not the tasks
  wait "$step"
done
wait "$step" # how they ended is kept
status=$?

# 74: a disk or a network failed, which may pass; not for ever.
if [ "$status" = 74 ] && [ -z "$ended" ] && [ "${SLURM_RESTART_COUNT:-0}" -lt 10 ]; then
  echo "a disk or a network failed: requeueing job $SLURM_JOB_ID"
  scontrol requeue "$SLURM_JOB_ID"
fi
if [ "$status" = 75 ] && [ -z "$ended" ]; then
  echo "preempted: requeueing job $SLURM_JOB_ID"
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
