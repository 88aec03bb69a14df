#!/usr/bin/env bash
# gpa train-dpo on several nodes by SLURM, which is the launcher: a task for every GPU.
#
#   sbatch --nodes=2 --gpus-per-node=8 --ntasks-per-node=8 train-slurm.sh /shared/runs/one \
#     --preset cogvideox-5b-i2v --shard
#
# RUN lies on the file system that all nodes share. A job that is preempted or runs out of time writes a
# checkpoint, is queued again, and the same command continues. On another number of GPUs it continues too,
# with --batch-size and --grad-accum that give as many pairs a step.
#SBATCH --job-name=gpa-train
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:TERM@300
set -euo pipefail

if [[ $# -eq 0 ]]; then
  echo "usage: sbatch [options] train-slurm.sh RUN [options of gpa train-dpo]" >&2
  exit 2
fi

# Not by head: what is written to a pipe that it has closed would end this script.
hosts="$(scontrol show hostnames "$SLURM_JOB_NODELIST")"
MASTER_ADDR="${hosts%%$'\n'*}"
MASTER_PORT="${MASTER_PORT:-$((20000 + SLURM_JOB_ID % 20000))}"
export MASTER_ADDR MASTER_PORT

driver=""
stop() {
  # SLURM tells this shell alone (B:TERM), srun tells every task: they end after the step they are in.
  [[ -n "$driver" ]] && kill -TERM "$driver" 2>/dev/null
}
trap stop TERM

# Every task is told its place, as accelerate launch would tell it.
# shellcheck disable=SC2016
srun --kill-on-bad-exit=1 bash -c '
  export RANK="$SLURM_PROCID" LOCAL_RANK="$SLURM_LOCALID" WORLD_SIZE="$SLURM_NTASKS"
  exec gpa train-dpo "$@"' gpa "$@" &
driver="$!"
code=0
# A trap interrupts wait: wait again until the tasks are really gone.
while true; do
  code=0
  wait "$driver" || code="$?"
  kill -0 "$driver" 2>/dev/null || break
done

# 143: stopped before it was done.
if [[ "$code" -eq 143 ]]; then
  scontrol requeue "$SLURM_JOB_ID" || true
fi
exit "$code"
