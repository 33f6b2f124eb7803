"""Limits that stop a loader hours into a run: shared memory and open files."""

import os
import resource
from collections.abc import Iterator
from pathlib import Path

from mmclip_launch.doctor.finding import GIB, Finding, gib

EXAMPLE_BATCH, EXAMPLE_PIXELS = 256, 224
"""Samples a process and picture side of the run that shared memory is judged by: a ViT-B/32 of moderate batch."""
WORKERS, PREFETCH = 2, 2
"""The defaults of `data.workers` and `data.prefetch_batches`."""
ENOUGH_FILES, TOO_FEW_FILES = 4096, 256


def loader_bytes(batch: int, pixels: int, workers: int = WORKERS, prefetch: int = PREFETCH) -> int:
    """Shared memory of one process's loader: each batch that waits or is in hand, uint8, three channels."""
    return batch * 3 * pixels * pixels * (workers * prefetch + 1)


def shared_memory() -> Iterator[Finding]:
    """/dev/shm, through which loader processes hand their batches over."""
    place = Path("/dev/shm")
    if not place.is_dir():
        yield Finding(name="shared memory", value="no /dev/shm on this system; nothing to limit")
        return
    told = os.statvfs(place)
    yield shared_memory_finding(told.f_blocks * told.f_frsize, told.f_bavail * told.f_frsize)


def shared_memory_finding(total: int, free: int) -> Finding:
    """Sizes of /dev/shm in bytes, against what loaders need."""
    need = loader_bytes(EXAMPLE_BATCH, EXAMPLE_PIXELS)
    holds = free // loader_bytes(1, EXAMPLE_PIXELS)
    value = f"{gib(free)} free of {gib(total)}: {holds:,} pictures of {EXAMPLE_PIXELS} px a batch, on one process"
    fix = (
        "docker run --shm-size=8g (or --ipc=host); in Kubernetes an emptyDir with medium: Memory at /dev/shm; "
        "elsewhere mount -o remount,size=8G /dev/shm; or data.workers 0"
    )
    if free < need:
        short = f"{value}; a batch of {EXAMPLE_BATCH} needs {gib(need)}, and a loader that runs out dies of a bus error"
        return Finding(name="shared memory", value=short, state="problem", fix=fix)
    if free < GIB:
        return Finding(name="shared memory", value=value, state="note", fix=fix)
    return Finding(name="shared memory", value=value)


def open_files() -> Iterator[Finding]:
    """How many files a process may hold open: loaders use one for each tensor on its way and each shard."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield open_files_finding(soft, hard)


def open_files_finding(soft: int, hard: int) -> Finding:
    """The soft limit counts, and a process may raise it to the hard one."""
    told = f"{_count(soft)} (hard limit {_count(hard)})"
    if soft == resource.RLIM_INFINITY or soft >= ENOUGH_FILES:
        return Finding(name="open files", value=told)
    reachable = hard == resource.RLIM_INFINITY or hard >= ENOUGH_FILES
    target = 65536 if hard == resource.RLIM_INFINITY else min(hard, 65536)
    fix = f"ulimit -n {target}" if reachable else "docker run --ulimit nofile=65536:65536, or raise it in limits.conf"
    state = "problem" if soft < TOO_FEW_FILES else "note"
    value = f"{told}: many workers and shards end in 'too many open files'"
    return Finding(name="open files", value=value, state=state, fix=fix)


def _count(limit: int) -> str:
    return "unlimited" if limit == resource.RLIM_INFINITY else f"{limit:,}"
