#!/usr/bin/env bash
# One training run on a fixed number of machines; on each, with its own number:
#   NODES=2 NODE=0 HEAD=node0 launch/torchrun/multi_node.sh launch/configs/tiny-vit.toml --output runs/first
set -euo pipefail
processes=${PROCESSES:-$(python -c 'import torch; print(torch.cuda.device_count() or 1)')}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(($(nproc) > processes ? $(nproc) / processes : 1))}
# between SIGTERM and SIGKILL; an older torchrun has no word for it and waits 30 s
grace=()
if [[ $(torchrun --help) == *--shutdown-timeout* ]]; then grace=(--shutdown-timeout="${GRACE_SECONDS:-300}"); fi
exec torchrun --nnodes="${NODES:?the number of machines}" --node-rank="${NODE:?the number of this one, from 0}" \
    --nproc-per-node="$processes" --master-addr="${HEAD:?the machine of number 0}" --master-port="${PORT:-29500}" \
    "${grace[@]}" \
    -m mmclip_launch.train "$@"
