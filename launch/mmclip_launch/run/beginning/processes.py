"""The processes of a run: how they find each other, on which device, and with how many cores each."""

import os

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs

from mmclip.errors import UserError
from mmclip.objectives.combined import needs_of
from mmclip_launch.run.attempt import init_method
from mmclip_launch.run.config import RunConfig
from mmclip_launch.run.peers import meet_peers, world_size


def build_accelerator(config: RunConfig) -> Accelerator:
    """Devices, precision and process group; the loader, the schedule and all saving stay ours.

    Raises:
        UserError: a launcher started several processes that did not find each other.
    """
    store = meet_peers(config.peer_timeout_seconds)
    # Where a view meets no caption, or an objective does not count yet, weights get no gradient, and DDP has to find that out.
    unused = bool(needs_of(config.objective, config.auxiliary).views)
    ddp = DistributedDataParallelKwargs(
        broadcast_buffers=False, gradient_as_bucket_view=True, find_unused_parameters=unused
    )
    # Without `cpu`, Accelerate leaves the processes of a launcher on a machine without a device unaware of each other.
    cpu = config.device == "cpu" or not torch.accelerator.is_available()
    AcceleratorState._reset_state()  # a second run in one process may be on another device
    # The module itself casts, because not every pass of a step goes through the wrapper (mmclip/training/accumulate.py).
    group = [InitProcessGroupKwargs(init_method=init_method())] if world_size() > 1 else []
    accelerator = Accelerator(mixed_precision="no", cpu=cpu, kwargs_handlers=[ddp, *group])
    del store  # rank 0 hosts it, and the process group has joined it by now
    if world_size() != accelerator.num_processes:
        raise UserError(f"the launcher started {world_size()} processes, but this one sees {accelerator.num_processes}")
    return accelerator


def share_cores(config: RunConfig, accelerator: Accelerator) -> None:
    """On CPUs, leave each loader process a core: two threads beside one worker on two cores are slower than one.

    `OMP_NUM_THREADS`, which launchers set, wins.
    """
    if accelerator.device.type == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        ranks_here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        cores = len(os.sched_getaffinity(0)) // ranks_here
        torch.set_num_threads(max(1, cores - config.data.workers))
