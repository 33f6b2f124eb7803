"""A run folder holds no pickle, and one that somebody else has filled with them runs nothing: it is refused by name."""

import io
import json
import os
import pickle
import pickletools
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import mmclip
from mmclip.envelope import MANIFEST, seal, sum_of
from mmclip.errors import UserError
from mmclip_launch.cli import dispatch, run_verb
from mmclip_launch.run.config import load_run_config
from mmclip_launch.train import train

RUN = """
output = "unused"
global_batch_size = 8
precision = "fp32"
device = "cpu"
length = { steps = 4 }
log_every_steps = 1
checkpoint = { every_steps = 2 }
ema = { decay = 0.9 }
data = { source = { type = "tars", shards = "embedded:emoji/unseen-concept-noto.tar" }, workers = 0 }
model = { arch = "nano-vit-32" }
"""
NEWEST, BEFORE = "checkpoints/step-00000004", "checkpoints/step-00000002"


class Payload:
    """Unpickled, it makes a folder: proof that code ran."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.canary),)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("hostile")
    (place / "run.toml").write_text(RUN)
    return train(load_run_config(place / "run.toml", ["--output", str(place / "run")]))


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run", symlinks=True))


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "code-ran"
    yield path
    assert not path.exists(), "code of the file ran"


def is_pickle(content: bytes) -> bool:
    """Whether the bytes, or a member of the archive that they are, are a pickle with an operation that makes objects."""
    file = io.BytesIO(content)
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            return any(is_pickle(archive.read(name)) for name in archive.namelist())
    try:
        operations = [operation.name for operation, _, _ in pickletools.genops(content)]
    except Exception:  # pickletools raises whatever the bytes lead it to
        return False
    return operations[-1] == "STOP"


def test_the_detector_finds_what_it_should(tmp_path: Path, canary: Path):
    torch.save({"a": torch.zeros(2)}, tmp_path / "zip.pt")
    torch.save({"a": 1}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert is_pickle((tmp_path / "zip.pt").read_bytes())
    assert is_pickle(pickle.dumps({"a": 1}))
    assert not is_pickle(b'{"a": 1}\n')


def test_a_run_folder_holds_no_pickle(finished: Path):
    files = [path for path in finished.rglob("*") if path.is_file()]
    assert len(files) > 15
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".jsonl", ".toml", ".html"}
    assert not [str(path) for path in files if is_pickle(path.read_bytes())]


def reseal(folder: Path) -> None:
    """As who fills a folder would: the manifest fits."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST]
    seal(folder, {str(path.relative_to(folder)): sum_of(path) for path in files})


def as_pickle(path: Path, payload: Payload) -> None:
    path.write_bytes(pickle.dumps(payload))


def as_torch_file(path: Path, payload: Payload) -> None:
    torch.save({"state_dict": payload}, path)


def as_old_torch_file(path: Path, payload: Payload) -> None:
    torch.save({"state_dict": payload}, path, _use_new_zipfile_serialization=False)


def as_tar(path: Path, payload: Payload) -> None:
    content = pickle.dumps(payload)
    with tarfile.open(path, "w") as archive:
        member = tarfile.TarInfo("storages")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))


FORMS = [as_pickle, as_torch_file, as_old_torch_file, as_tar]
OURS = [
    "open_clip_model.safetensors",
    "raw_weights.safetensors",
    "open_clip_config.json",
    "optimizer.safetensors",
    "training_state.json",
]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", OURS)
def test_a_pickle_in_the_place_of_a_file_runs_nothing(
    name: str, form: Callable[[Path, Payload], None], run: Path, canary: Path, capsys: pytest.CaptureFixture[str]
):
    """In both checkpoints, so that no other can be taken in its place."""
    for folder in (run / NEWEST, run / BEFORE):
        form(folder / name, Payload(canary))
        reseal(folder)
    assert run_verb(dispatch, ["train", str(run / "config.toml"), "--output", str(run), "--resume"]) == 2
    assert name in capsys.readouterr().err
    if name in OURS[:3]:
        raw: dict[str, Any] = {"raw": True} if name.startswith("raw") else {}
        from mmclip.release import load

        with pytest.raises(UserError):
            load(run / NEWEST, **raw)


@pytest.mark.parametrize(
    "name",
    [
        "open_clip_pytorch_model.bin",
        "pytorch_model.bin",
        "optimizer.bin",
        "scheduler.bin",
        "custom_checkpoint_0.pkl",
        "random_states_0.pkl",
        "dl_state_dict.bin",
        ".metadata",
        "__0_0.distcp",
        "epoch_1.pt",
        "adapter/adapter_model.bin",
    ],
)
def test_a_carrier_beside_the_files_is_passed_over_for_an_older_checkpoint(
    name: str, run: Path, canary: Path, capsys: pytest.CaptureFixture[str]
):
    path = run / NEWEST / name
    path.parent.mkdir(exist_ok=True)
    as_torch_file(run / "made", Payload(canary))  # torch writes to no name with a dot in front
    (run / "made").rename(path)
    reseal(run / NEWEST)
    (run / "report").rename(run / "report-before")
    assert run_verb(dispatch, ["train", str(run / "config.toml"), "--output", str(run), "--resume"]) == 0
    assert f"{path.name} is of a kind that can carry code" in " ".join(capsys.readouterr().err.split())
    mmclip.load(run)


@pytest.mark.parametrize("name", ["config.toml", "result.json", "leases/00000001.json", f"{NEWEST}/{MANIFEST}"])
def test_a_pickle_among_the_runs_own_files_runs_nothing(name: str, run: Path, canary: Path):
    as_pickle(run / name, Payload(canary))
    code = run_verb(dispatch, ["train", str(run / "config.toml"), "--output", str(run), "--resume"])
    assert code == (2 if name in ("config.toml", "result.json") else 0)


def test_a_result_that_leads_out_of_the_run_is_refused(run: Path, tmp_path: Path):
    shutil.copytree(run / NEWEST, tmp_path / "elsewhere")
    (run / "result.json").write_text(json.dumps({"folder": "../elsewhere", "why": "because"}))
    with pytest.raises(UserError, match=r"leads out of the run"):
        mmclip.load(run)


def test_a_link_in_the_place_of_a_checkpoint_is_no_way_out(run: Path, tmp_path: Path):
    """`latest` is for people: a link that somebody moved changes nothing."""
    (run / "checkpoints" / "latest").unlink()
    (run / "checkpoints" / "latest").symlink_to(tmp_path)
    mmclip.load(run)
