#!/usr/bin/env bash
# Recognizes an archive on a Slurm cluster, as an array of independent tasks with one GPU each.
# Submit it from the repository's root:
#
#   sbatch launch/slurm_recognize.sh --input='archive/**/*.mp4' --output=out
#
# All options are passed to launch/recognize.py. THE ONE LINE TO CHANGE is the next: the number of
# tasks and what each of them gets. Tasks start whenever there is room and share the inputs.
#SBATCH --array=0-7 --ntasks=1 --gpus-per-task=1
#SBATCH --cpus-per-task=4
#SBATCH --time=24:00:00
#SBATCH --job-name=jdance-recognize
#SBATCH --output=slurm-%A_%a.out
#SBATCH --open-mode=append
# Sends SIGTERM to the task before the time limit or a preemption with grace time.
#SBATCH --signal=TERM@60
#SBATCH --requeue
#
# On SIGTERM a task gives its input back to the others and exits with status 75. This script then
# requeues the task, which goes on with what is left. It also requeues the task, up to ten times,
# after a temporary disk or network failure (74) and if it was killed (137), such as for its memory.
# "scancel JOB" ends the job for good; the same command continues.
set -uo pipefail

# Caches compiled programs on each node, so that every task but the first starts quickly.
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-${TMPDIR:-/tmp}/jdance-xla-$(id -un)}

[ -e .venv/bin/activate ] && source .venv/bin/activate

# The batch script must survive SIGTERM to read the task's exit status. It gets the signal only if
# Slurm ends the whole job; then Slurm decides whether to requeue it.
ended=
trap ended=1 TERM
srun --kill-on-bad-exit=0 python launch/recognize.py "$@" &
step=$!
while kill -0 "$step" 2>/dev/null; do # a signal interrupts the wait, not the task
  wait "$step"
done
wait "$step" # still returns its status
status=$?

# The job ID of an array's last task is that of the whole array, whose other tasks go on.
task=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
task=${task:-$SLURM_JOB_ID}

if [ -z "$ended" ]; then
  case $status in
    75)
      echo "preempted: requeueing job $task"
      scontrol requeue "$task"
      ;;
    74 | 137)
      if [ "${SLURM_RESTART_COUNT:-0}" -lt 10 ]; then
        echo "ended with status $status: requeueing job $task"
        scontrol requeue "$task"
      fi
      ;;
  esac
fi
exit "$status"
