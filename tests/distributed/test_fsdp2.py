"""Sharded runs: what each rank holds, and that a checkpoint of one layout goes on in every other."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mmclip.errors import UserError
from mmclip.release import export, load, model_folder, sha256_of
from mmclip.towers.layout import read_all, stored
from mmclip.towers.weights import WEIGHTS_FILE

pytestmark = pytest.mark.xdist_group("fsdp2")  # one worker makes what the tests share, once

WORKER = Path(__file__).with_name("fsdp2_worker.py")
TORCHRUN = [str(Path(sys.executable).parent / "torchrun"), "--standalone", "--nproc_per_node"]
RUN = """
output = "unused"
global_batch_size = 24
precision = "fp64"
device = "cpu"
length = { steps = 4 }
data = { source = { type = "tars", shards = "embedded:emoji/unseen-concept-noto.tar" }, workers = 0 }
model = { arch = "nano-vit-32" }
accumulation = { micro_batch_size = 4 }
ema = { decay = 0.9 }
optimizer = { lr = 1e-3 }
checkpoint = { every_steps = 2 }
evaluation = { report = false }
"""
SHARDED = ("--sharding.method", "fsdp2")
LAST = "checkpoints/step-00000004"


def train(folder: Path, ranks: int, *flags: str) -> Path:
    """A run in `folder / "run"`, which the processes tell about in files beside it."""
    folder.mkdir(exist_ok=True)
    (folder / "run.toml").write_text(RUN)
    command = [*TORCHRUN, str(ranks)] if ranks > 1 else [sys.executable]
    done = subprocess.run(
        [*command, str(WORKER), str(folder / "run.toml"), str(folder), "--output", str(folder / "run"), *flags],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "run"


def resume(run: Path, folder: Path, ranks: int, *flags: str) -> Path:
    """The second half of a copy of a run, which lost its last checkpoint."""
    folder.mkdir()
    shutil.copytree(run, folder / "run", symlinks=True)
    shutil.rmtree(folder / "run" / LAST)
    return train(folder, ranks, "--resume", *flags)


def tensors_of(run: Path) -> dict[str, torch.Tensor]:
    """Weights, their average and all moments of the last checkpoint, whatever its layout."""
    found: dict[str, torch.Tensor] = {}
    names = {"weights": WEIGHTS_FILE, "raw_weights": "raw_weights.safetensors", "optimizer": "optimizer.safetensors"}
    for name, file in names.items():
        layout = run / LAST / f"{name}.layout.json"
        tensors = read_all(layout) if layout.is_file() else load_file(run / LAST / file)
        found |= {f"{name}/{key}": tensor.reshape(-1) for key, tensor in tensors.items()}
    return found


def assert_close(a: Path, b: Path) -> None:
    first, second = tensors_of(a), tensors_of(b)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.allclose(tensor, second[name], rtol=1e-12, atol=1e-12), name
    ids = [[json.loads(line)["ids"] for line in (run / "ledger.jsonl").read_text().splitlines()] for run in (a, b)]
    assert ids[0] == ids[1]
    assert len(ids[0]) == 4


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("sharded"), 2, *SHARDED)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("alone"), 1)


def test_each_of_two_ranks_holds_half_the_bytes_of_weights_average_and_moments(sharded: Path):
    held = [json.loads((sharded.parent / f"held-{rank}.json").read_text()) for rank in range(2)]
    assert all(one["sharded"] for one in held)
    for one in held:
        assert one["bytes_here"] == pytest.approx(one["bytes"] / 2, rel=0.01)


def test_a_sharded_run_learns_what_one_process_learns(sharded: Path, alone: Path):
    assert_close(sharded, alone)
    texts = ["a red apple", "a blue house", "two dogs"]
    for raw in (False, True):
        ours, theirs = load(sharded, raw=raw), load(alone, raw=raw)
        assert (ours.embed_texts(texts) - theirs.embed_texts(texts)).abs().max() < 1e-5
        pixels = torch.randint(0, 256, (3, 3, *ours.spec.size), dtype=torch.uint8)
        assert (ours.embed_uint8(pixels) - theirs.embed_uint8(pixels)).abs().max() < 1e-5


def test_a_sharded_checkpoint_exports_to_one_file_that_stock_open_clip_reads(sharded: Path, tmp_path: Path):
    with pytest.raises(UserError, match="mmclip export"):
        model_folder(sharded)
    exported = export(sharded, tmp_path / "exported")
    assert exported.difference is not None
    assert exported.difference < 1e-5
    assert not list((tmp_path / "exported").glob("*.layout.json"))
    assert model_folder(tmp_path / "exported") == tmp_path / "exported"


def test_no_file_of_a_sharded_checkpoint_is_a_pickle_and_each_rank_has_its_own(sharded: Path):
    names = {path.name for path in (sharded / LAST).iterdir()}
    groups = ("weights", "raw_weights", "optimizer")
    rows = {f"{group}-{rank:05d}-of-00002.safetensors" for group in groups for rank in range(2)}
    tables = {f"{group}.layout.json" for group in groups}
    assert names == rows | tables | {"MANIFEST.json", "training_state.json", "open_clip_config.json"}
    with stored(sharded / LAST / "weights.layout.json") as weights:
        assert weights.shapes["logit_scale"] == (1,), "fewer rows than ranks"


def test_two_checkpoints_of_a_sharded_run_are_told_apart_by_their_weights(sharded: Path):
    hashes = {
        sha256_of(sharded / "checkpoints" / f"step-0000000{step}", raw) for step in (2, 4) for raw in (True, False)
    }
    assert len(hashes) == 4
    assert None not in hashes


def test_a_run_that_goes_on_at_the_same_layout_is_the_same_to_the_last_bit(sharded: Path, tmp_path: Path):
    again = resume(sharded, tmp_path / "again", 2, *SHARDED)
    for path in (sharded / LAST).iterdir():
        assert path.read_bytes() == (again / LAST / path.name).read_bytes(), path.name
    assert (again / "ledger.jsonl").read_bytes() == (sharded / "ledger.jsonl").read_bytes()


def test_a_sharded_run_goes_on_as_one_process(sharded: Path, tmp_path: Path):
    again = resume(sharded, tmp_path / "again", 1, *SHARDED)
    assert (again / LAST / WEIGHTS_FILE).is_file()
    assert_close(again, sharded)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("begin", "ranks", "flags"),
    [("sharded", 3, SHARDED), ("alone", 2, SHARDED), ("sharded", 2, ("--sharding.method", "none")),
     ("sharded", 2, (*SHARDED, "--sharding.replicas", "2"))],
    ids=["2 to 3", "1 to 2", "fsdp2 to ddp", "fsdp2 to two replicas"],
)  # fmt: skip
def test_a_run_goes_on_in_another_layout(
    begin: str, ranks: int, flags: Sequence[str], tmp_path: Path, request: pytest.FixtureRequest
):
    run: Path = request.getfixturevalue(begin)
    assert_close(resume(run, tmp_path / "again", ranks, *flags), run)
