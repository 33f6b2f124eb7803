"""Cores and memory: what the machine has, and how much of it this process may use."""

import math
import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mmclip_launch.doctor.cgroup import cpu_quota, memory_limit
from mmclip_launch.doctor.finding import GIB, Finding, gib


@dataclass(frozen=True, kw_only=True)
class Processor:
    """What /proc/cpuinfo says, or as much of it as another system tells."""

    model: str
    physical_cores: int | None
    flags: frozenset[str]


def read_processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> Processor:
    """The processor of this machine; instruction sets by the kernel's names."""
    if not cpuinfo.is_file():
        return Processor(model=platform.processor() or platform.machine(), physical_cores=None, flags=frozenset())
    blocks = [
        {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in block.splitlines())}
        for block in cpuinfo.read_text().strip().split("\n\n")
    ]
    cores = {(block.get("physical id"), block.get("core id")) for block in blocks if "core id" in block}
    first = blocks[0]
    return Processor(
        model=first.get("model name") or platform.machine(),
        physical_cores=len(cores) or None,
        flags=frozenset((first.get("flags") or first.get("Features") or "").split()),
    )


def usable_cores() -> int:
    """Logical cores that the scheduler may put this process on."""
    # macOS has no affinity.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cores() -> Iterator[Finding]:
    """The processor, its cores, and how busy they are."""
    processor = read_processor()
    yield Finding(name="processor", value=processor.model)
    logical, usable = os.cpu_count() or 1, usable_cores()
    threads = os.environ.get("OMP_NUM_THREADS", "")
    yield from core_findings(logical, processor.physical_cores, usable, cpu_quota(), threads)
    load = os.getloadavg()[0]
    if load > usable:
        value = f"{load:.1f} on {usable} cores: other work slows training and makes the speeds below too low"
        yield Finding(name="load", value=value, state="note", fix="end the other work, or wait for it")


def core_findings(
    logical: int, physical: int | None, usable: int, quota: float | None, omp_threads: str
) -> Iterator[Finding]:
    """Cores of the machine against those that affinity and the container's quota leave."""
    value = f"{usable} usable of {logical}" + (f" logical, {physical} physical" if physical else " logical")
    if quota is not None and quota < usable:
        few = max(1, math.floor(quota))
        yield Finding(
            name="cores",
            value=f"{value}; the container may use the time of {quota:g}, which torch does not see: it starts "
            f"{usable} threads that wait for each other",
            state="note",
            fix=f"OMP_NUM_THREADS={few}, or give the container more (docker run --cpus)",
        )
    else:
        yield Finding(name="cores", value=value)
    if omp_threads.isdigit() and int(omp_threads) > usable:
        value = f"OMP_NUM_THREADS={omp_threads} on {usable} usable cores"
        yield Finding(name="threads", value=value, state="note", fix="unset it, or make it no more than the cores")


def memory() -> Iterator[Finding]:
    """Memory of the machine and of the container."""
    meminfo = Path("/proc/meminfo")
    if not meminfo.is_file():
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        yield from memory_findings(total, None, None)
        return
    kib = {line.partition(":")[0]: int(line.split()[1]) for line in meminfo.read_text().splitlines() if ":" in line}
    yield from memory_findings(kib["MemTotal"] * 1024, kib["MemAvailable"] * 1024, memory_limit())


def memory_findings(total: int, available: int | None, limit: int | None) -> Iterator[Finding]:
    """Bytes in all, bytes that are free or can be freed, and the limit of the container."""
    left = min(size for size in (total, available, limit) if size is not None)
    parts = [gib(total)]
    parts += [f"{gib(available)} available"] if available is not None else []
    parts += [f"the container may use {gib(limit)}"] if limit is not None and limit < total else []
    fix = "end other programs, or give the container more (docker run --memory)"
    if left < GIB:
        yield Finding(
            name="memory", value=", ".join(parts), state="problem", fix=f"{fix}: training needs more than 1 GiB"
        )
    elif left < 4 * GIB:
        yield Finding(name="memory", value=f"{', '.join(parts)}: small models only", state="note", fix=fix)
    else:
        yield Finding(name="memory", value=", ".join(parts))
