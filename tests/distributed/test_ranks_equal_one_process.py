import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from safetensors.torch import load_file

pytestmark = pytest.mark.xdist_group("ranks equal one process")  # one worker makes what the tests share, once

WORKER = Path(__file__).with_name("gradient_worker.py")
BIN = Path(sys.executable).parent

RUN = """
output = "unused"
global_batch_size = 24
precision = "fp64"
device = "cpu"
length = { steps = 30 }
[data]
source = { type = "tars", shards = "embedded:emoji/unseen-concept-*.tar" }
captions = ["txt", "json:captions"]
workers = 0
[model]
arch = "nano-vit-32"
[towers]
patch_dropout = 0.5
activation_checkpointing = true
[optimizer]
lr = 1e-3
"""

PLAIN = ("clip", "siglip", "dropped", "lora")
VARIANTS = (*PLAIN, *(f"{name}-accumulated" for name in PLAIN), "batch-norm")
OF_THE_CLOCK = {"train/samples_per_second", "train/data_wait_fraction"}
HEALTH = {
    *(f"health/{m}_{name}" for m in ("image", "text") for name in ("effective_rank", "effective_rank_centred")),
    *(f"health/{m}_{name}" for m in ("image", "text") for name in ("std", "uniformity")),
    "health/alignment",
    "health/modality_gap",
}

LAUNCHERS = {
    "torchrun 2": [str(BIN / "torchrun"), "--standalone", "--nproc_per_node", "2"],
    "torchrun 3": [str(BIN / "torchrun"), "--standalone", "--nproc_per_node", "3"],
    "accelerate 2": [str(BIN / "accelerate"), "launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1",
                     "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"],
}  # fmt: skip


SHARDED = ("--sharding.method", "fsdp2")


def answers_of(command: list[str], folder: Path, flags: Sequence[str] = ()) -> Path:
    folder.mkdir()
    (folder / "run.toml").write_text(RUN)
    done = subprocess.run(
        [*command, str(WORKER), str(folder / "run.toml"), str(folder), *flags],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def metrics(folder: Path, number: int) -> dict[str, float]:
    """A line of metrics without the two figures of the clock."""
    entry = json.loads((folder / "metrics.jsonl").read_text().splitlines()[number])
    assert {name for name in entry if name.startswith("health/")} == HEALTH
    return {name: value for name, value in entry.items() if name not in OF_THE_CLOCK}


def ledger(folder: Path) -> list[str]:
    return [json.loads(line)["ids"] for line in (folder / "ledger.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return answers_of([sys.executable], tmp_path_factory.mktemp("alone") / "answers")


@pytest.mark.parametrize(
    ("launcher", "flags"),
    [
        ("torchrun 2", ()),
        pytest.param("torchrun 3", (), marks=pytest.mark.slow),
        ("accelerate 2", ()),
        ("torchrun 2", SHARDED),
        pytest.param("torchrun 3", SHARDED, marks=pytest.mark.slow),
    ],
    ids=lambda value: value if isinstance(value, str) else "".join(value[1:]),
)
def test_ranks_give_the_gradients_ids_rates_and_metrics_of_one_process(
    launcher: str, flags: tuple[str, ...], alone: Path, tmp_path: Path
):
    together = answers_of(LAUNCHERS[launcher], tmp_path / "answers", flags)
    ranks = int(launcher.split()[1])
    for objective in [name for name in VARIANTS if not (flags and name.startswith(("lora", "batch")))]:
        plain = objective.removesuffix("-accumulated")  # one process, the batch as a whole
        single = json.loads((alone / f"{plain}-steps-0.json").read_text())
        several = [json.loads((together / f"{objective}-steps-{rank}.json").read_text()) for rank in range(ranks)]
        for number, step in enumerate(single):
            parts = [steps[number] for steps in several]
            assert sum((part["ids"] for part in parts), []) == step["ids"]
            assert sum((part["keys"] for part in parts), []) == step["keys"]
            assert {part["lr"] for part in parts} == {step["lr"]}
            assert all(abs(part["loss"] - step["loss"]) < 1e-12 * abs(step["loss"]) for part in parts)
            expected = load_file(alone / f"{plain}-gradients-{number}.safetensors")
            got = load_file(together / f"{objective}-gradients-{number}.safetensors")
            assert got.keys() == expected.keys()
            scale = max(float(gradient.norm()) for gradient in expected.values())
            assert scale > 1e-6
            for name, gradient in expected.items():
                difference = float((got[name] - gradient).norm())
                assert difference <= 1e-9 * max(float(gradient.norm()), 1e-6 * scale), name
            logged, alone_logged = (
                metrics(folder / name, number) for folder, name in ((together, objective), (alone, plain))
            )
            assert logged == pytest.approx(alone_logged, rel=1e-9, abs=1e-12)
        assert ledger(together / objective) == ledger(alone / plain)
        assert ("towers.backbone.logit_scale" in expected) == (plain != "lora")
        assert all(".lora_" in name for name in expected) == (plain == "lora")
        assert ("towers.backbone.logit_bias" in expected) == (plain == "siglip")
