"""`mmclip eval` on one, two and three processes: the same files to the last byte, and an error of one ends all."""

import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mmclip.towers.two_tower import TwoTower
from mmclip.towers.weights import save_weights
from mmclip_launch.cli import run_verb
from mmclip_launch.evaluate import main

BIN = Path(sys.executable).parent
WORKER = Path(__file__).with_name("evaluation_worker.py")
EVALUATE = ["-m", "mmclip_launch.evaluate"]
TORCHRUN = [str(BIN / "torchrun"), "--standalone", "--nproc_per_node"]
ACCELERATE = [str(BIN / "accelerate"), "launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1",
              "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]  # fmt: skip
MODEL_CFG = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 64, "layers": 2, "head_width": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}
PICTURES = 300
"""Five chunks, the last one not full, in three shards: no number of ranks here divides any of them."""
COLOURS = ("red", "green", "blue", "white", "black", "brown")
SUITE = """
[[datasets]]
name = "colours"
path = "colours"
tasks = ["zero_shot_classification"]

[[datasets]]
name = "captions"
path = "colours/test"
captions = ["txt"]
tasks = [{ type = "zero_shot_retrieval", recall_at = [1, 7] }]
"""
MOVING = ("wall_seconds",)


def picture(number: int) -> bytes:
    rng, buffer = np.random.default_rng(number), io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (36, 44, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def write_shard(path: Path, members: Mapping[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def write_set(folder: Path, pictures: int, bad: int = -1) -> None:
    """A CLIP_benchmark folder, without indexes."""
    shards: list[dict[str, bytes]] = [{}, {}, {}]
    for number in range(pictures):
        members = shards[number * 3 // pictures]
        members[f"s{number:07d}.cls"] = str(number % len(COLOURS)).encode()
        members[f"s{number:07d}.png"] = picture(number)[: 50 if number == bad else None]
        members[f"s{number:07d}.txt"] = f"{COLOURS[number % 6]} thing number {number}".encode()
    for number, members in enumerate(shards):
        write_shard(folder / "test" / f"{number}.tar", members)
    (folder / "test" / "nshards.txt").write_text("3")
    (folder / "classnames.txt").write_text("\n".join(COLOURS) + "\n")
    (folder / "zeroshot_classification_templates.txt").write_text("a {c} thing\nsomething {c}\n")


def write_model(folder: Path, damage: float | None = None) -> None:
    torch.manual_seed(0)
    model = TwoTower(MODEL_CFG)
    if damage is not None:
        torch.nn.init.constant_(model.backbone.visual.proj, damage)
    folder.mkdir()
    save_weights(model, folder)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`good` and `nan` are models; `single` is what one process made of the good one."""
    place = tmp_path_factory.mktemp("place")
    write_model(place / "good")
    write_model(place / "nan", float("nan"))
    write_set(place / "colours", PICTURES)
    write_set(place / "cut", PICTURES, bad=70)  # in the second chunk, which is the second rank's
    (place / "suite.toml").write_text(SUITE)
    before = Path.cwd()
    os.chdir(place)
    try:
        main(["good", "--suite", "suite.toml", "--output", "single", "--cache", "kept-single", "--no-report"])
    finally:
        os.chdir(before)
    return place


def started(launcher: list[str], place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [*launcher, *arguments, "--no-report"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=place, capture_output=True, text=True, check=False, timeout=400, env=environment)


def contents(folder: Path) -> dict[str, bytes]:
    """The files, but for the lines that hold times."""
    files = {}
    for path in sorted(folder.glob("*.json")):
        lines = path.read_bytes().splitlines(keepends=True)
        files[path.name] = b"".join(line for line in lines if not any(f'"{m}"'.encode() in line for m in MOVING))
    return files


def features(folder: Path) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in folder.glob("*/features.f32")}


def messages(stderr: str) -> list[str]:
    return [line for line in stderr.splitlines() if line.startswith("mmclip: ")]


FLAGS = {
    "small batches": ("--batch-size", "1", "--workers", "1"),
    "large batches": ("--batch-size", "1000", "--workers", "7", "--cache", "kept-large"),
    "without a cache": ("--no-cache",),
    "from the cache": ("--cache", "kept-single"),
}


@pytest.mark.parametrize("flags", FLAGS.values(), ids=FLAGS.keys())
@pytest.mark.parametrize("threads", [1, 2])
def test_no_flag_of_speed_moves_a_byte(
    flags: tuple[str, ...], threads: int, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(place)
    torch.set_num_threads(threads)
    try:
        main(["good", "--suite", "suite.toml", "--output", str(tmp_path), "--no-report", *flags])
    finally:
        torch.set_num_threads(1)
    assert len(contents(tmp_path)) == 2
    assert contents(tmp_path) == contents(place / "single")
    assert features(place / "kept-large") in ({}, features(place / "kept-single"))


def test_two_processes_write_the_bytes_of_one_and_a_bad_checkpoint_costs_the_good_one_nothing(place: Path):
    arguments = ("nan", "good", "--suite", "suite.toml", "--output", "two", "--cache", "kept-two")
    done = started([*TORCHRUN, "2", *EVALUATE], place, *arguments)
    assert done.returncode != 0
    (message,) = messages(done.stderr)
    assert message == "mmclip: 2 evaluations failed; the results of all others are written:", done.stderr
    for name in ("colours", "captions"):
        assert f"\nnan, {name}: sample {name}/0.tar/s0000000: its embedding is not finite" in done.stderr
    assert contents(place / "two") == contents(place / "single")
    assert features(place / "kept-single").items() <= features(place / "kept-two").items()
    assert "300 pictures and 312 texts encoded" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [[*TORCHRUN, "3"], ACCELERATE], ids=["torchrun 3", "accelerate 2"])
def test_other_launchers_and_speeds_write_the_same_bytes(launcher: list[str], place: Path, tmp_path: Path):
    arguments = ("good", "--suite", "suite.toml", "--output", str(tmp_path / "out"), "--batch-size", "100")
    done = started([*launcher, *EVALUATE], place, *arguments, "--workers", "3", "--cache", str(tmp_path / "kept"))
    assert done.returncode == 0, done.stderr[-3000:]
    assert contents(tmp_path / "out") == contents(place / "single")
    assert features(tmp_path / "kept") == features(place / "kept-single")


@pytest.mark.slow
def test_a_bad_picture_on_another_rank_is_one_message_that_names_it(place: Path):
    done = started([*TORCHRUN, "2", *EVALUATE], place, "good", "--dataset", "cut", "--output", "bad", "--no-cache")
    assert done.returncode != 0
    (message,) = messages(done.stderr)
    assert message.startswith("mmclip: sample cut/0.tar/s0000070 cannot be decoded"), done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("way", ["raise", "die", "die-later"])
def test_a_rank_that_fails_ends_the_command(way: str, place: Path):
    worker = [*TORCHRUN, "2", str(WORKER), way]
    done = started(worker, place, "good", "--suite", "suite.toml", "--output", f"failed-{way}", "--no-cache")
    assert done.returncode != 0
    said = messages(done.stderr)
    if way == "raise":
        assert len(said) == 1
        assert "2 evaluations failed" in said[0]
        assert done.stderr.count("TypeError: only here; this is a fault of mmclip") >= 2
        assert "rank 1 (" in done.stderr
    else:  # torchrun may end the first rank before it speaks
        assert all("lost contact with another process" in line for line in said)
    assert contents(place / f"failed-{way}") == {}


def test_a_command_of_one_process_needs_no_launcher(place: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.chdir(place)
    assert run_verb(main, ["nan", "--suite", "suite.toml", "--output", "none", "--no-report"]) == 2
    said = capsys.readouterr().err
    assert "2 evaluations failed" in said
