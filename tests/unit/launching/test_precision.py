from dataclasses import replace
from pathlib import Path

import pytest
from accelerate import Accelerator

from mmclip.training.progress import LengthConfig
from mmclip_data.loading.loader import DataConfig
from mmclip_data.loading.sources import SyntheticConfig
from mmclip_launch.run.beginning.folder import begin_folder
from mmclip_launch.run.config import RunConfig
from mmclip_launch.run.precision import agree, native_of_flags, settle, settled


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    source = SyntheticConfig(samples=64)
    return RunConfig(
        output=str(tmp_path / "run"),
        global_batch_size=8,
        length=LengthConfig(steps=2),
        data=DataConfig(source=source),
        device="cpu",
    )


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"avx2", "avx512f", "avx512_bf16"}, "bf16"),
        ({"amx_bf16"}, "bf16"),
        ({"asimd", "bf16"}, "bf16"),
        ({"avx2", "avx512f", "avx512_vnni"}, "fp32"),  # torch emulates bf16 there
        (set(), "fp32"),
    ],
)
def test_bf16_is_chosen_where_the_processor_has_it(flags: set[str], expected: str):
    assert native_of_flags(frozenset(flags)) == expected


def test_what_was_chosen_stands_in_the_run_and_is_kept(config: RunConfig):
    assert config.precision == "auto"
    chosen = settle(config, resume=False)
    assert chosen.precision == settled(config) != "auto"
    other = "fp32" if chosen.precision == "bf16" else "bf16"
    begin_folder(replace(config, precision=other))  # as a machine of another kind had begun it
    assert settle(config, resume=True).precision == other
    assert settle(config, resume=False).precision == chosen.precision


@pytest.mark.parametrize("precision", ["bf16", "fp32", "fp16"])
def test_a_precision_that_was_asked_for_is_left_alone(config: RunConfig, precision: str):
    asked = replace(config, precision=precision)
    assert agree(settle(asked, resume=False), Accelerator(cpu=True), was_auto=False) == asked
