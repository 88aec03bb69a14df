#!/usr/bin/env bash
# A Ray cluster inside a SLURM job, and a gpa command on it:
#
#   sbatch --nodes=4 --gpus-per-node=8 slurm.sh sample /shared/runs/one --preset cogvideox-5b-i2v \
#     --prompts /shared/prompts.jsonl --gpus-per-worker 1 --workers 32
#
# RUN lies on the file system that all nodes share. A job that is preempted or runs out of time is queued
# again, and the same command does what is missing. Whoever reaches the ports of Ray can run code: use it on a
# network that you trust, or with RAY_AUTH_MODE=token and a token in RAY_AUTH_TOKEN_PATH.
#SBATCH --job-name=gpa
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=1
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:TERM@120
set -euo pipefail

if [[ $# -eq 0 ]]; then
  echo "usage: sbatch [options] slurm.sh COMMAND RUN [options of gpa]" >&2
  exit 2
fi

# Seconds that tasks in flight have after SIGTERM: less than the 120 above.
GRACE="${GRACE:-90}"
PORT="${PORT:-$((20000 + SLURM_JOB_ID % 20000))}"

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head="${nodes[0]}"
head_ip="$(srun --overlap --nodes=1 --ntasks=1 --nodelist="$head" hostname --ip-address | awk '{print $1}')"

pids=()
on() { # NODE COMMAND...: run it on one node, in the background
  local node="$1"
  shift
  srun --overlap --nodes=1 --ntasks=1 --nodelist="$node" "$@" &
  pids+=("$!")
}

driver=""
stop() {
  # SLURM tells this shell alone (B:TERM): Ray stays up until the driver has ended.
  [[ -n "$driver" ]] && kill -TERM "$driver" 2>/dev/null
}
trap stop TERM

on "$head" ray start --head --node-ip-address="$head_ip" --port="$PORT" --include-dashboard=false --block
for ((tries = 0; tries < 60; tries++)); do
  ray health-check --address "$head_ip:$PORT" >/dev/null 2>&1 && break
  sleep 2
done
for node in "${nodes[@]:1}"; do
  on "$node" ray start --address="$head_ip:$PORT" --block
done

gpa "$@" --ray-address "$head_ip:$PORT" --grace "$GRACE" &
driver="$!"
code=0
# A trap interrupts wait: wait again until the driver is really gone.
while true; do
  code=0
  wait "$driver" || code="$?"
  kill -0 "$driver" 2>/dev/null || break
done

kill "${pids[@]}" 2>/dev/null || true
wait "${pids[@]}" 2>/dev/null || true
# 143: stopped before it was done.
if [[ "$code" -eq 143 ]]; then
  scontrol requeue "$SLURM_JOB_ID" || true
fi
exit "$code"
