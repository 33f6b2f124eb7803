#!/usr/bin/env bash
# One task of train.sbatch is one rank: Slurm's variables in the words that torch knows. No launcher stands between, so that
# the exit code of the run is that of the task.
set -euo pipefail

tasks_on() { # the number of tasks on node $2, by Slurm's short form of all nodes, such as 8(x2),4
    local counts=() part count times
    for part in ${1//,/ }; do
        count=${part%%(*} times=1
        [[ $part == *"(x"* ]] && times=${part#*(x} times=${times%)}
        while ((times-- > 0)); do counts+=("$count"); done
    done
    echo "${counts[$2]}"
}

export RANK=$SLURM_PROCID WORLD_SIZE=$SLURM_NTASKS LOCAL_RANK=$SLURM_LOCALID
LOCAL_WORLD_SIZE=$(tasks_on "$SLURM_STEP_TASKS_PER_NODE" "$SLURM_NODEID")
export LOCAL_WORLD_SIZE
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-1}}
exec python -m mmclip_launch.train "$@"
