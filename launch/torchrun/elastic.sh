#!/usr/bin/env bash
# One training run on machines that come and go: start the same line on each, and again where one was lost.
#   NODES=1:4 HEAD=node0:29400 JOB=first launch/torchrun/elastic.sh launch/configs/tiny-vit.toml --output runs/first
# Whenever a process ends too early or a machine joins, all start anew from the newest whole checkpoint, on the processes
# that are there: global_batch_size must divide by each number of them. SIGTERM and SIGUSR1 to this script end the run with
# a checkpoint. Without HEAD: this machine alone.
set -euo pipefail
processes=${PROCESSES:-$(python -c 'import torch; print(torch.cuda.device_count() or 1)')}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(($(nproc) > processes ? $(nproc) / processes : 1))}
# between SIGTERM and SIGKILL; an older torchrun has no word for it and waits 30 s
grace=()
if [[ $(torchrun --help) == *--shutdown-timeout* ]]; then grace=(--shutdown-timeout="${GRACE_SECONDS:-300}"); fi
exec torchrun --nnodes="${NODES:-1:1}" --nproc-per-node="$processes" \
    --rdzv-backend=c10d --rdzv-endpoint="${HEAD:-localhost:0}" --rdzv-id="${JOB:-mmclip}" \
    --max-restarts="${RESTARTS:-100}" --signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1 \
    "${grace[@]}" \
    -m mmclip_launch.train "$@" --resume
