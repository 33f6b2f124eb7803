#!/usr/bin/env bash
# One training run on this machine, a process for each GPU, or as many as PROCESSES says:
#   PROCESSES=2 launch/torchrun/local.sh launch/configs/tiny-vit.toml
set -euo pipefail
processes=${PROCESSES:-$(python -c 'import torch; print(torch.cuda.device_count() or 1)')}
# Threads share the cores: without this torchrun gives each process one thread, which starves a CPU run.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(($(nproc) > processes ? $(nproc) / processes : 1))}
exec torchrun --standalone --nproc_per_node "$processes" -m mmclip_launch.train "$@"
