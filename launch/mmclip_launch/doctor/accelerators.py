"""CUDA and MPS devices, and why one that is there may not be usable."""

import os
import platform
import shutil
import subprocess
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmclip_launch.doctor.finding import GIB, Finding, gib

SMI = ("nvidia-smi", "--query-gpu=name,driver_version,memory.total,memory.used", "--format=csv,noheader,nounits")
SMI_SECONDS = 4
"""A driver that hangs makes nvidia-smi hang: the doctor does not wait for it."""
LOCALLY = "https://pytorch.org/get-started/locally"


@dataclass(frozen=True, kw_only=True)
class DriverDevice:
    """One line of nvidia-smi: what the driver sees, whatever torch thinks."""

    name: str
    driver: str
    total_bytes: int
    used_bytes: int


@dataclass(frozen=True, kw_only=True)
class TorchDevice:
    """A CUDA device as torch sees it."""

    name: str
    capability: tuple[int, int]
    total_bytes: int


@dataclass(frozen=True, kw_only=True)
class CudaState:
    """Everything that a judgement on CUDA needs."""

    built_for: str | None
    """CUDA version of the torch build, or None for a CPU build."""
    architectures: tuple[str, ...]
    """What the build holds kernels for: sm_80, ..., compute_120."""
    devices: tuple[TorchDevice, ...]
    driver: tuple[DriverDevice, ...]
    has_device_file: bool
    """Whether /dev/nvidia0 or another is there."""
    visible: str | None
    """CUDA_VISIBLE_DEVICES."""
    complaint: str
    """What torch said when it could not start CUDA."""


def cuda() -> Iterator[Finding]:
    """CUDA devices of this machine."""
    yield from cuda_findings(read_cuda())


def read_cuda() -> CudaState:
    """Ask torch and the driver; nothing is allocated on a device."""
    import torch

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        available = torch.cuda.is_available()  # warns where the driver is older than the build
    complaint = "; ".join(str(warning.message) for warning in caught)
    devices = []
    for index in range(torch.cuda.device_count() if available else 0):
        told = torch.cuda.get_device_properties(index)
        devices.append(TorchDevice(name=told.name, capability=(told.major, told.minor), total_bytes=told.total_memory))
    has_device_file = any(path.name[6:].isdigit() for path in Path("/dev").glob("nvidia*"))
    if not available and has_device_file and torch.version.cuda is not None:
        complaint = _why_cuda_does_not_start() or complaint
    return CudaState(
        built_for=torch.version.cuda,
        architectures=tuple(torch.cuda.get_arch_list()),
        devices=tuple(devices),
        driver=read_driver(),
        has_device_file=has_device_file,
        visible=os.environ.get("CUDA_VISIBLE_DEVICES"),
        complaint=" ".join(complaint.split())[:300],
    )


def _why_cuda_does_not_start() -> str:
    import torch

    try:
        torch.cuda.init()
    except RuntimeError as error:  # how torch says "the driver is too old" and "no device", with the reason
        return str(error)
    return ""


def read_driver() -> tuple[DriverDevice, ...]:
    """What nvidia-smi lists; nothing where it is not installed, fails or hangs."""
    if shutil.which(SMI[0]) is None:
        return ()
    try:
        done = subprocess.run(SMI, capture_output=True, text=True, timeout=SMI_SECONDS)
    except subprocess.TimeoutExpired:  # a hanging driver: torch's own complaint tells more
        return ()
    return parse_driver(done.stdout) if done.returncode == 0 else ()


def parse_driver(text: str) -> tuple[DriverDevice, ...]:
    """Lines of nvidia-smi's CSV; memory in MiB, `[N/A]` where a device has none of its own."""
    devices = []
    for line in text.strip().splitlines():
        name, driver, total, used = (field.strip() for field in line.rsplit(",", 3))
        total_bytes, used_bytes = (int(size) * 2**20 if size.isdigit() else 0 for size in (total, used))
        devices.append(DriverDevice(name=name, driver=driver, total_bytes=total_bytes, used_bytes=used_bytes))
    return tuple(devices)


def cuda_findings(state: CudaState) -> Iterator[Finding]:
    """A line for each device, or why there is none."""
    if not state.devices:
        yield _absent(state)
        return
    driver = f", driver {state.driver[0].driver}" if state.driver else ""
    for index, device in enumerate(state.devices):
        major, minor = device.capability
        value = f"{device.name}, {gib(device.total_bytes)}, compute capability {major}.{minor}{driver}, CUDA {state.built_for}"
        yield _judged(f"cuda:{index}", value, device, state.architectures)
    # nvidia-smi counts all devices; with some hidden, its order is not torch's.
    if len(state.driver) == len(state.devices):
        for index, seen in enumerate(state.driver):
            if seen.used_bytes > 0.1 * seen.total_bytes:
                value = f"{gib(seen.used_bytes)} of its memory are taken by other programs"
                fix = "see them with nvidia-smi; end them, or choose another device by CUDA_VISIBLE_DEVICES"
                yield Finding(name=f"cuda:{index}", value=value, state="note", fix=fix)


def _judged(name: str, value: str, device: TorchDevice, architectures: Sequence[str]) -> Finding:
    if not runs_on(device.capability, architectures):
        held = ", ".join(architectures)
        return Finding(
            name=name,
            value=f"{value}: this torch holds no kernels for it ({held})",
            state="problem",
            fix=f"install a torch build for this device: {LOCALLY}",
        )
    if device.capability < (8, 0):
        fix = "precision fp32 (the default, bf16, is emulated)"
        return Finding(name=name, value=f"{value}: no bf16 units", state="note", fix=fix)
    return Finding(name=name, value=value)


def runs_on(capability: tuple[int, int], architectures: Sequence[str]) -> bool:
    """Whether a build runs on a device: machine code of its major version and no later minor, or PTX of any earlier one."""
    major, minor = capability
    for name in architectures:
        kind, _, digits = name.partition("_")
        digits = digits.rstrip("af")  # sm_90a: features of one architecture
        built = (int(digits[:-1]), int(digits[-1]))
        if (kind == "sm" and built[0] == major and built[1] <= minor) or (
            kind == "compute" and built <= (major, minor)
        ):
            return True
    return not architectures


def _absent(state: CudaState) -> Finding:
    seen = bool(state.driver) or state.has_device_file
    what = f"{state.driver[0].name} (driver {state.driver[0].driver})" if state.driver else "an NVIDIA device"
    build = f"torch is built for CUDA {state.built_for}" if state.built_for else "torch is a CPU build"
    if not seen:
        return Finding(name="cuda", value=f"no device; {build}")
    if state.built_for is None:
        return Finding(
            name="cuda",
            value=f"{what} is there, but {build}: training would run on the CPU",
            state="problem",
            fix=f"install a CUDA build of torch and torchvision: {LOCALLY}",
        )
    if state.visible is not None and state.visible.strip() in ("", "-1"):
        value = f"{what} is hidden by CUDA_VISIBLE_DEVICES={state.visible!r}"
        return Finding(name="cuda", value=value, state="note", fix="unset CUDA_VISIBLE_DEVICES")
    return Finding(
        name="cuda",
        value=f"{what} is there, but torch.cuda.is_available() is False; {build}: {state.complaint or 'no reason given'}",
        state="problem",
        fix=f"update the driver, or install a torch for an older CUDA ({LOCALLY}); in a container: docker run --gpus all",
    )


def mps() -> Iterator[Finding]:
    """Apple's GPU; nothing is said of it on other systems."""
    if platform.system() != "Darwin":
        return
    import torch

    backend = torch.backends.mps
    yield mps_finding(backend.is_built(), backend.is_available(), torch.mps.recommended_max_memory)


def mps_finding(built: bool, available: bool, memory_bytes: Callable[[], int]) -> Finding:
    """`memory_bytes()` is asked only where the device is available."""
    if available:
        return Finding(name="mps", value=f"Apple GPU, {memory_bytes() / GIB:.0f} GiB of the memory for it")
    why = "macOS is too old for it, or there is no such GPU" if built else "torch is built without it"
    return Finding(name="mps", value=f"not available: {why}", state="note", fix="update macOS and torch")
