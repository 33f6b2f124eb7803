import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mmclip_launch.doctor.accelerators import (
    CudaState,
    DriverDevice,
    TorchDevice,
    cuda_findings,
    mps_finding,
    parse_driver,
    read_cuda,
    runs_on,
)
from mmclip_launch.doctor.backends import Kernels, bf16_finding, kernel_findings, library_finding
from mmclip_launch.doctor.cgroup import cpu_quota, memory_limit
from mmclip_launch.doctor.disk import Room, nearest_existing, read_room, room_finding
from mmclip_launch.doctor.finding import GIB, Finding, gib
from mmclip_launch.doctor.limits import PREFETCH, WORKERS, loader_bytes, open_files_finding, shared_memory_finding
from mmclip_launch.doctor.processor import core_findings, memory_findings, read_processor
from mmclip_launch.doctor.speed import accelerator_measures, best_rate, bf16_speed_finding, flops_text, peak

H200 = TorchDevice(name="NVIDIA H200", capability=(9, 0), total_bytes=139 * GIB)
SEEN = DriverDevice(name="NVIDIA H200", driver="570.86.15", total_bytes=143771 * 2**20, used_bytes=0)
ONE_GPU = CudaState(
    built_for="12.8",
    architectures=("sm_80", "sm_90", "compute_90"),
    devices=(H200,),
    driver=(SEEN,),
    has_device_file=True,
    visible=None,
    complaint="",
)


def states(findings: Iterator[Finding] | list[Finding]) -> dict[str, str]:
    return {finding.name: finding.state for finding in findings}


def only(findings: Iterator[Finding]) -> Finding:
    (finding,) = findings
    return finding


# --- machine


def write_tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("files", "quota", "limit"),
    [
        ({}, None, None),
        (
            {
                "proc/self/cgroup": "0::/\n",
                "sys/fs/cgroup/cpu.max": "150000 100000\n",
                "sys/fs/cgroup/memory.max": "2147483648\n",
            },
            1.5,
            2 * GIB,
        ),
        (
            {
                "proc/self/cgroup": "0::/user/job\n",
                "sys/fs/cgroup/user/job/cpu.max": "max 100000\n",
                "sys/fs/cgroup/user/job/memory.max": "max\n",
                "sys/fs/cgroup/user/cpu.max": "400000 100000\n",
                "sys/fs/cgroup/user/memory.max": "1073741824\n",
            },
            4.0,
            GIB,
        ),
        (
            {
                "proc/self/cgroup": "5:cpu,cpuacct:/docker/ab\n4:memory:/docker/ab\n1:name=systemd:/docker/ab\n",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "200000\n",  # the container sees its own group as the root
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "536870912\n",
            },
            2.0,
            GIB // 2,
        ),
        (
            {
                "proc/self/cgroup": "2:cpu:/\n1:memory:/\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            },
            None,
            None,
        ),
    ],
    ids=["none", "v2-container", "v2-ancestor", "v1-container", "v1-unlimited"],
)
def test_limits_of_control_groups_are_read(
    files: dict[str, str], quota: float | None, limit: int | None, tmp_path: Path
):
    root = write_tree(tmp_path, files)
    assert cpu_quota(root) == quota
    assert memory_limit(root) == limit


def test_processor_counts_physical_cores_once(tmp_path: Path):
    block = "processor\t: {n}\nmodel name\t: Some CPU\nphysical id\t: {s}\ncore id\t\t: {c}\nflags\t\t: fpu amx_bf16\n"
    threads = [(socket, core) for socket in (0, 1) for core in range(4) for _ in range(2)]
    text = "\n".join(block.format(n=n, s=socket, c=core) for n, (socket, core) in enumerate(threads))
    (tmp_path / "cpuinfo").write_text(text)
    processor = read_processor(tmp_path / "cpuinfo")
    assert (processor.model, processor.physical_cores, processor.flags) == ("Some CPU", 8, {"fpu", "amx_bf16"})


def test_a_container_with_less_time_than_cores_is_noted():
    assert only(core_findings(64, 32, 64, None, "")).state == "ok"
    limited = only(core_findings(64, 32, 64, 3.5, ""))
    assert limited.state == "note"
    assert limited.fix.startswith("OMP_NUM_THREADS=3,")
    assert states(core_findings(8, 4, 2, None, "8")) == {"cores": "ok", "threads": "note"}


@pytest.mark.parametrize(
    ("available", "limit", "state"), [(32, None, "ok"), (3, None, "note"), (32, 2, "note"), (32, 0.5, "problem")]
)
def test_the_smallest_of_free_memory_and_limit_counts(available: float, limit: float | None, state: str):
    found = only(memory_findings(64 * GIB, int(available * GIB), int(limit * GIB) if limit else None))
    assert found.state == state
    assert ("container" in found.value) is (limit is not None)


# --- limits and disk


def test_shared_memory_is_held_against_the_loader_with_its_default_settings():
    from mmclip_data.loading.loader import DataConfig

    defaults = DataConfig.__dataclass_fields__  # pyright: ignore[reportAttributeAccessIssue]
    assert (defaults["workers"].default, defaults["prefetch_batches"].default) == (WORKERS, PREFETCH)
    need = loader_bytes(256, 224)
    assert need == 5 * 256 * 3 * 224 * 224
    dockers_default = shared_memory_finding(64 * 2**20, 64 * 2**20)
    assert dockers_default.state == "problem"
    assert "--shm-size" in dockers_default.fix
    assert shared_memory_finding(need, need - 1).state == "problem"
    assert shared_memory_finding(need, need).state == "note"
    assert shared_memory_finding(8 * GIB, 8 * GIB).state == "ok"


def test_open_files_are_raised_within_the_hard_limit_or_by_the_container():
    import resource

    assert open_files_finding(65536, 65536).state == "ok"
    assert open_files_finding(resource.RLIM_INFINITY, resource.RLIM_INFINITY).state == "ok"
    soft = open_files_finding(1024, 524288)
    assert (soft.state, soft.fix) == ("note", "ulimit -n 65536")
    assert "--ulimit" in open_files_finding(1024, 1024).fix
    assert open_files_finding(200, resource.RLIM_INFINITY).state == "problem"


def test_room_for_runs_is_judged_by_bytes_files_and_a_real_write(tmp_path: Path):
    room = Room(free=100 * GIB, total=200 * GIB, free_files=10**6, error="")
    assert room_finding("runs", tmp_path, room).state == "ok"
    assert room_finding("runs", tmp_path, replace(room, free=10 * GIB)).state == "note"
    assert room_finding("runs", tmp_path, replace(room, free=GIB // 2)).state == "problem"
    assert room_finding("temporary", tmp_path, replace(room, free=GIB // 2)).state == "note"
    assert "99 more files" in room_finding("runs", tmp_path, replace(room, free_files=99)).value
    real = read_room(tmp_path)
    assert real.error == ""
    assert real.total == pytest.approx(os.statvfs(tmp_path).f_blocks * os.statvfs(tmp_path).f_frsize)
    assert list(tmp_path.iterdir()) == []
    refused = room_finding("runs", Path("/proc"), read_room(Path("/proc")))  # not writable, not even for root
    assert refused.state == "problem"
    assert "cannot be written" in refused.value
    assert nearest_existing(tmp_path / "a" / "b") == tmp_path


# --- devices


def test_a_device_that_works_is_one_line():
    found = only(cuda_findings(ONE_GPU))
    assert found.state == "ok"
    assert found.value == "NVIDIA H200, 139.0 GiB, compute capability 9.0, driver 570.86.15, CUDA 12.8"


@pytest.mark.parametrize(
    ("change", "state", "words"),
    [
        (
            {"devices": (), "driver": (), "has_device_file": False, "built_for": None},
            "ok",
            "no device; torch is a CPU build",
        ),
        ({"devices": (), "built_for": None}, "problem", "driver 570.86.15) is there, but torch is a CPU build"),
        (
            {"devices": (), "complaint": "driver too old"},
            "problem",
            "is_available() is False; torch is built for CUDA 12.8",
        ),
        ({"devices": (), "driver": (), "complaint": ""}, "problem", "an NVIDIA device is there"),
        ({"devices": (), "visible": ""}, "note", "hidden by CUDA_VISIBLE_DEVICES"),
        ({"architectures": ("sm_70", "sm_75")}, "problem", "holds no kernels for it"),
        ({"devices": (replace(H200, capability=(7, 5)),), "architectures": ("sm_75",)}, "note", "no bf16 units"),
    ],
    ids=["none", "cpu-build", "driver-too-old", "only-a-file", "hidden", "no-kernels", "no-bf16"],
)
def test_why_a_device_cannot_be_used_is_said(change: dict[str, object], state: str, words: str):
    found = only(cuda_findings(replace(ONE_GPU, **change)))  # pyright: ignore[reportArgumentType]
    assert found.state == state
    assert words in found.value
    assert bool(found.fix) is (state != "ok")


def test_memory_that_others_hold_is_noted():
    busy = replace(SEEN, used_bytes=60 * GIB)
    found = list(cuda_findings(replace(ONE_GPU, driver=(busy,))))
    assert [finding.state for finding in found] == ["ok", "note"]
    assert "60.0 GiB of its memory are taken" in found[1].value


@pytest.mark.parametrize(
    ("capability", "architectures", "runs"),
    [
        ((8, 6), ("sm_80",), True),  # machine code runs on later minors of its major
        ((8, 0), ("sm_86",), False),
        ((9, 0), ("sm_80",), False),
        ((9, 0), ("sm_90a",), True),
        ((12, 0), ("sm_80", "compute_90"), True),  # PTX is compiled for what came later
        ((12, 0), ("sm_120",), True),
        ((7, 0), ("compute_80",), False),
    ],
)
def test_binary_compatibility_follows_cudas_rule(
    capability: tuple[int, int], architectures: tuple[str, ...], runs: bool
):
    assert runs_on(capability, architectures) is runs


def test_lines_of_nvidia_smi_are_read():
    text = "NVIDIA H200, 570.86.15, 143771, 5\nNVIDIA GB10, 580.82, [N/A], [N/A]\n"
    first, second = parse_driver(text)
    assert first == replace(SEEN, used_bytes=5 * 2**20)
    assert (second.name, second.total_bytes) == ("NVIDIA GB10", 0)
    assert parse_driver("") == ()


def test_what_torch_says_of_cuda_is_read_here():
    import torch

    state = read_cuda()
    assert len(state.devices) == (torch.cuda.device_count() if torch.cuda.is_available() else 0)
    assert state.built_for == torch.version.cuda


def test_mps_asks_for_memory_only_where_it_is_available():
    assert mps_finding(True, True, lambda: 48 * GIB).value == "Apple GPU, 48 GiB of the memory for it"
    assert mps_finding(True, False, lambda: pytest.fail("asked")).state == "note"
    assert "built without" in mps_finding(False, False, lambda: pytest.fail("asked")).value


# --- backends and speed

NO_GPU = Kernels(
    devices=0, flash_enabled=True, efficient_enabled=True, flash_built=False, tf32="highest", gloo=True, nccl=False,
    triton=None,
)  # fmt: skip
GPUS = replace(NO_GPU, devices=8, flash_built=True, nccl=True, triton="3.9.0")


def test_backends_of_gpus_are_judged_only_where_there_is_one():
    assert states(kernel_findings(NO_GPU)) == {"process groups": "ok", "triton": "ok"}
    whole = states(kernel_findings(GPUS))
    assert whole == {"attention": "ok", "TF32": "ok", "process groups": "ok", "triton": "ok"}
    poor = replace(GPUS, flash_built=False, nccl=False, triton=None)
    assert states(kernel_findings(poor)) == {
        **whole,
        "attention": "note",
        "process groups": "problem",
        "triton": "note",
    }
    assert states(kernel_findings(replace(poor, devices=1)))["process groups"] == "ok"
    assert states(kernel_findings(replace(NO_GPU, gloo=False)))["process groups"] == "note"


def test_bf16_without_instructions_is_noted():
    assert bf16_finding(frozenset({"avx512_bf16", "fpu"})).value == "in hardware (avx512_bf16)"
    assert bf16_finding(frozenset({"avx2"})).state == "note"
    assert bf16_finding(frozenset()).state == "ok"
    assert bf16_speed_finding(70e9, 180e9).value == "180 GFLOP/s, 2.6 times fp32"
    assert bf16_speed_finding(70e9, 20e9).state == "note"
    assert library_finding("open", False, "AVX2").state == "note"


class Machine:
    """A clock that only work moves: `rate` operations a second and a fixed cost for each call."""

    def __init__(self, rate: float, overhead: float) -> None:
        self.rate, self.overhead, self.now = rate, overhead, 0.0
        self.sizes: list[int] = []

    def prepare(self, n: int) -> Callable[[], float]:
        def run() -> float:
            self.sizes.append(n)
            seconds = 2 * n**3 / self.rate + self.overhead
            self.now += seconds
            return 2 * n**3 / seconds

        return run


@pytest.mark.parametrize("rate", [1e9, 70e9, 800e12])
def test_the_peak_is_the_best_rate_and_the_time_is_bounded(rate: float):
    machine = Machine(rate, overhead=1e-5)
    best = best_rate(machine.prepare, 0.4, clock=lambda: machine.now)
    assert machine.now < 0.4 * 1.3
    assert machine.sizes == sorted(machine.sizes)
    largest = 2 * machine.sizes[-1] ** 3
    assert best == pytest.approx(largest / (largest / rate + 1e-5))
    assert best > 0.9 * rate


def test_a_real_product_is_timed_on_this_processor():
    import torch

    assert 1e8 < peak(torch.device("cpu"), torch.float32, seconds=0.05) < 1e15


def test_precisions_of_an_accelerator():
    import torch

    assert list(accelerator_measures(torch.device("cuda"))) == ["bf16", "fp16", "fp32", "tf32"]
    assert list(accelerator_measures(torch.device("mps"))) == ["bf16", "fp16", "fp32"]


@pytest.mark.gpu
def test_every_precision_runs_on_the_accelerator():
    import torch

    if not torch.accelerator.is_available():
        pytest.skip("no accelerator")
    device = torch.accelerator.current_accelerator()
    assert device is not None
    before = torch.get_float32_matmul_precision()
    assert all(measure() > 1e9 for measure in accelerator_measures(device).values())
    assert torch.get_float32_matmul_precision() == before


def test_figures_read_as_a_person_reads_them():
    assert [flops_text(rate) for rate in (69.4e9, 1.24e12, 788e12)] == ["69 GFLOP/s", "1.2 TFLOP/s", "788.0 TFLOP/s"]
    assert (gib(64 * 2**20), gib(24 * GIB)) == ("64 MiB", "24.0 GiB")
