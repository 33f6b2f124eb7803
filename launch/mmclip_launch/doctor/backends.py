"""Which of torch's faster paths work here."""

import importlib.util
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from mmclip_launch.doctor.finding import Finding
from mmclip_launch.doctor.processor import read_processor

BF16_FLAGS = ("amx_bf16", "avx512_bf16", "bf16")
"""Names of the kernel for bf16 in hardware, fastest first; the last is ARM's."""


def matrix_library() -> Iterator[Finding]:
    """The BLAS that torch was built with, oneDNN, and the instruction set that torch chose."""
    import torch

    found = re.search(r"BLAS_INFO=(\w+)", torch.__config__.show())
    blas = found.group(1) if found else "unknown BLAS"
    yield library_finding(blas, torch.backends.mkldnn.is_available(), torch.backends.cpu.get_cpu_capability())
    yield Finding(name="threads", value=f"torch uses {torch.get_num_threads()} for one operation")


def library_finding(blas: str, has_onednn: bool, capability: str) -> Finding:
    """OneDNN carries convolutions and bf16 on CPUs."""
    value = f"{blas}, {'oneDNN' if has_onednn else 'no oneDNN'}, {capability}"
    if has_onednn:
        return Finding(name="matrix library", value=value)
    fix = "on a CPU, install torch's own wheel: its convolutions and bf16 are several times faster"
    return Finding(name="matrix library", value=value, state="note", fix=fix)


def bf16_on_cpu() -> Iterator[Finding]:
    """Whether the processor has instructions for bf16."""
    yield bf16_finding(read_processor().flags)


def bf16_finding(flags: frozenset[str]) -> Finding:
    """`flags`: instruction sets by the kernel's names; empty where the system does not tell."""
    there = [flag for flag in BF16_FLAGS if flag in flags]
    if there:
        return Finding(name="bf16 on the CPU", value=f"in hardware ({', '.join(there)})")
    if not flags:
        return Finding(name="bf16 on the CPU", value="this system does not tell: compare the speeds below")
    return Finding(
        name="bf16 on the CPU",
        value=f"emulated: the processor has none of {', '.join(BF16_FLAGS)}",
        state="note",
        fix="where training runs on this CPU: precision fp32",
    )


@dataclass(frozen=True, kw_only=True)
class Kernels:
    """What torch says of its attention kernels, its TF32 setting and its process groups."""

    devices: int
    """CUDA devices."""
    flash_enabled: bool
    efficient_enabled: bool
    flash_built: bool
    tf32: str
    """torch's precision of fp32 products: highest, high or medium."""
    gloo: bool
    nccl: bool
    triton: str | None


def kernels() -> Iterator[Finding]:
    """Attention, TF32, process groups and triton."""
    import torch

    groups = torch.distributed
    try:
        triton = version("triton")
    except PackageNotFoundError:  # triton belongs to CUDA builds
        triton = None
    yield from kernel_findings(
        Kernels(
            devices=torch.cuda.device_count() if torch.cuda.is_available() else 0,
            flash_enabled=torch.backends.cuda.flash_sdp_enabled(),
            efficient_enabled=torch.backends.cuda.mem_efficient_sdp_enabled(),
            flash_built=torch.backends.cuda.is_flash_attention_available(),
            tf32=torch.get_float32_matmul_precision(),
            gloo=groups.is_available() and groups.is_gloo_available(),
            nccl=groups.is_available() and groups.is_nccl_available(),
            triton=triton if importlib.util.find_spec("triton") is not None else None,
        )
    )


def kernel_findings(seen: Kernels) -> Iterator[Finding]:
    """Lines on what matters with the devices that are there: attention and TF32 are questions of CUDA alone."""
    if seen.devices:
        yield _attention(seen)
        value = "off, fp32 products are exact" if seen.tf32 == "highest" else f"on ({seen.tf32})"
        yield Finding(name="TF32", value=value)
    yield _groups(seen)
    if seen.devices and seen.triton is None:
        value = "not installed: torch.compile cannot make kernels"
        yield Finding(
            name="triton", value=value, state="note", fix="pip install triton (CUDA builds of torch bring it)"
        )
    else:
        yield Finding(name="triton", value=seen.triton or "not installed; only GPUs need it")


def _attention(seen: Kernels) -> Finding:
    if seen.flash_built and seen.flash_enabled:
        return Finding(name="attention", value="flash" + (" and memory-efficient" if seen.efficient_enabled else ""))
    why = "switched off" if seen.flash_built else "not in this build"
    rest = "memory-efficient kernel" if seen.efficient_enabled else "plain kernel, which keeps every score"
    fix = "torch.backends.cuda.enable_flash_sdp(True)" if seen.flash_built else "install torch's own CUDA wheel"
    return Finding(name="attention", value=f"flash is {why}; {rest}", state="note", fix=fix)


def _groups(seen: Kernels) -> Finding:
    value = ", ".join(name for name, there in (("gloo", seen.gloo), ("nccl", seen.nccl)) if there) or "none"
    if seen.devices > 1 and not seen.nccl:
        return Finding(
            name="process groups",
            value=f"{value}: {seen.devices} devices cannot train together without nccl",
            state="problem",
            fix="install torch's own CUDA wheel",
        )
    if not (seen.gloo or seen.nccl):
        return Finding(
            name="process groups", value="none: one process only", state="note", fix="install torch's own wheel"
        )
    return Finding(name="process groups", value=value)
