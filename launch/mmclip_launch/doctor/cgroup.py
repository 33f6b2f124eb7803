"""Limits that a container or a batch system sets by control groups, version 1 or 2; the kernel's other figures ignore them."""

from pathlib import Path

UNLIMITED = 2**60
"""Version 1 writes "no limit" as a number near 2**63."""


def cpu_quota(root: Path = Path("/")) -> float | None:
    """Cores' worth of time that the group may use, or None without a limit; the smallest of its ancestors counts."""
    quotas = []
    for folder in _folders(root, "cpu"):
        if (text := _read(folder / "cpu.max")) is not None:
            quota, _, period = text.partition(" ")
            if quota != "max":
                quotas.append(int(quota) / int(period or 100_000))
        elif (text := _read(folder / "cpu.cfs_quota_us")) is not None and int(text) > 0:
            quotas.append(int(text) / int(_read(folder / "cpu.cfs_period_us") or 100_000))
    return min(quotas, default=None)


def memory_limit(root: Path = Path("/")) -> int | None:
    """Bytes that the group may hold, or None without a limit."""
    limits = []
    for folder in _folders(root, "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            text = _read(folder / name)
            if text is not None and text != "max" and int(text) < UNLIMITED:
                limits.append(int(text))
    return min(limits, default=None)


def _folders(root: Path, controller: str) -> list[Path]:
    """Where this process's group and its ancestors are described.

    Inside a container the path that the kernel names may not be mounted; the folders that are not there read as nothing.
    """
    found = []
    for line in (_read(root / "proc/self/cgroup") or "").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup"
        top = mount / controllers if controllers else mount
        # A mount of several controllers (cpu,cpuacct) is also reachable under the name of each.
        top = top if top.is_dir() else mount / controller
        steps = [part for part in path.split("/") if part]
        found += [top.joinpath(*steps[:depth]) for depth in range(len(steps), -1, -1)]
    return found


def _read(path: Path) -> str | None:
    return path.read_text().strip() if path.is_file() else None
