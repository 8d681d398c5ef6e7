#!/usr/bin/env bash
# Trains on a Slurm cluster with one task per GPU. Submit it from the repository's root:
#
#   sbatch launch/slurm.sh --config=configs/paper.py:scratch --workdir=runs/paper
#
# All options are passed to launch/train.py. THE ONE LINE TO CHANGE is the next: nodes and GPUs.
#SBATCH --nodes=2 --ntasks-per-node=8 --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --job-name=jdance
#SBATCH --output=slurm-%j.out
#SBATCH --open-mode=append
# Sends SIGTERM to the tasks two minutes before the time limit or a preemption with grace time.
#SBATCH --signal=TERM@120
#SBATCH --requeue
#
# On SIGTERM all tasks save a checkpoint after the same step and exit with status 75. This script
# then requeues the job, which resumes from the checkpoint, as it does after Slurm's own requeues
# (scontrol requeue, preemption, a failed node). A temporary disk or network failure (status 74)
# also requeues the job, up to ten times. "scancel JOB" saves and ends the job for good; "scancel
# --signal=TERM JOB" saves and requeues it.
#
# For one task per node with all its GPUs, use --ntasks-per-node=1 and set JDANCE_TASK_PER_NODE=1.
set -uo pipefail

# Caches compiled programs on each node, so that a restart does not recompile them.
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-${TMPDIR:-/tmp}/jdance-xla-$(id -un)}
# Further XLA flags, at your own risk: an unknown flag aborts the program. For bit-identical results
# after a restart on GPUs: --xla_gpu_deterministic_ops=true
export XLA_FLAGS=${XLA_FLAGS:-}
# NCCL detects the network. If it picks the wrong interface (NCCL_DEBUG=INFO shows which), name the
# right one of `ip -brief address`.
#   export NCCL_SOCKET_IFNAME=ib0
#   export NCCL_DEBUG=INFO
# Processes connect to the first node directly, not through a proxy.
unset http_proxy https_proxy HTTP_PROXY HTTPS_PROXY

# By default JAX uses one GPU per task, the one with the task's local index.
if [ "${JDANCE_TASK_PER_NODE:-}" ]; then
  gpus=${SLURM_GPUS_ON_NODE:-1}
  export JAX_LOCAL_DEVICE_IDS=$(seq -s, 0 $((gpus - 1)))
fi

[ -e .venv/bin/activate ] && source .venv/bin/activate

# The batch script must survive SIGTERM to read the tasks' exit status. It gets the signal only if
# Slurm ends the whole job; then Slurm decides whether to requeue it.
ended=
trap ended=1 TERM
srun --kill-on-bad-exit=0 python launch/train.py "$@" &
step=$!
while kill -0 "$step" 2>/dev/null; do # a signal interrupts the wait, not the tasks
  wait "$step"
done
wait "$step" # still returns their status
status=$?

# The job ID of an array's last task is that of the whole array, whose other tasks go on.
job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
job=${job:-$SLURM_JOB_ID}

if [ "$status" = 74 ] && [ -z "$ended" ] && [ "${SLURM_RESTART_COUNT:-0}" -lt 10 ]; then
  echo "a disk or network failed: requeueing job $job"
  scontrol requeue "$job"
fi
if [ "$status" = 75 ] && [ -z "$ended" ]; then
  echo "preempted: requeueing job $job"
  scontrol requeue "$job"
fi
exit "$status"
