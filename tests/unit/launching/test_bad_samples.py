"""A run over shards with rotten samples: each is replaced, counted and named, and too many end the run."""

import json
import shutil
from pathlib import Path

import pytest

from mmclip.errors import UserError
from mmclip_data.shards import ShardWriter, expand_shards, open_index
from mmclip_data.shards.read import ShardReader
from mmclip_launch.run.config import load_run_config
from mmclip_launch.train import train

RUN = """
output = "{folder}/run"
global_batch_size = 32
precision = "fp32"
length = {{ epochs = 1 }}
[data]
source = {{ type = "tars", shards = "{folder}/shards" }}
workers = {workers}
{more}
[model]
arch = "nano-vit-32"
"""


def make_shards(folder: Path, rotten: int) -> list[str]:
    """The embedded pictures of one style again; the first `rotten` of them are flipped on disk after they were indexed."""
    (tar,) = expand_shards("embedded:emoji/unseen-concept-noto.tar")
    names = []
    with ShardReader(tar, open_index(tar)) as reader, ShardWriter(folder, "part-{:d}.tar", 1000) as writer:
        for row in range(reader.index.num_samples):
            writer.add(reader.index.key(row), reader.read(row))
    (copy,) = folder.glob("*.tar")
    index = open_index(copy)
    with copy.open("r+b") as file:
        for row in range(rotten):
            place = index.members(row)["webp"]
            file.seek(place.offset + place.size // 2)
            byte = file.read(1)[0]
            file.seek(-1, 1)
            file.write(bytes([byte ^ 1]))
            names.append(f"train/part-0.tar/{index.key(row)}")
    return names


@pytest.mark.parametrize("workers", [0, 1])
def test_rotten_samples_are_replaced_and_named(tmp_path: Path, workers: int):
    rotten = make_shards(tmp_path / "shards", 5)
    (tmp_path / "run.toml").write_text(RUN.format(folder=tmp_path, workers=workers, more=""))
    folder = train(load_run_config(tmp_path / "run.toml"))
    entries = [json.loads(line) for line in (folder / "quarantine.jsonl").read_text().splitlines()]
    assert {entry["sample_id"] for entry in entries} == set(rotten)
    assert all("expected checksum" in entry["reason"] for entry in entries)
    assert not {entry["replaced_by"] for entry in entries} & set(rotten)
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["train/bad_samples"] == len(entries)


def test_too_many_bad_samples_end_the_run(tmp_path: Path):
    make_shards(tmp_path / "shards", 40)
    (tmp_path / "run.toml").write_text(RUN.format(folder=tmp_path, workers=0, more="max_bad_fraction = 0.05"))
    with pytest.raises(UserError, match=r"samples were bad, more than data.max_bad_fraction=0.05 allows.*quarantine"):
        train(load_run_config(tmp_path / "run.toml"))
    assert len((tmp_path / "run" / "quarantine.jsonl").read_text().splitlines()) > 10


def test_a_run_that_diverges_says_so_and_saves_nothing(tmp_path: Path):
    make_shards(tmp_path / "shards", 0)
    text = RUN.format(folder=tmp_path, workers=0, more="").replace("epochs = 1", "steps = 6")
    (tmp_path / "run.toml").write_text(
        text + "logit_scale = 1e30\n[optimizer]\nlr = 9.0\nmax_skipped_steps = 0\nmax_logit_scale = 1e37\n"
    )
    with pytest.raises(
        UserError, match=r"step \d+: loss .*, gradient norm inf: 1 steps were skipped, more than .*the run has diverged"
    ):
        train(load_run_config(tmp_path / "run.toml"))
    assert not list((tmp_path / "run").glob("checkpoints/*"))


def make_halves(folder: Path, samples: int, without: dict[str, str]) -> None:
    """Some of the embedded pictures; `without` names the member that a key lacks."""
    (tar,) = expand_shards("embedded:emoji/unseen-concept-noto.tar")
    with ShardReader(tar, open_index(tar)) as reader, ShardWriter(folder, "part-{:d}.tar", 1000) as writer:
        for row in range(samples):
            members = reader.read(row, {"webp", "txt"})
            members.pop(without.get(f"{row}", ""), None)
            writer.add(f"{row}", members)


def test_a_run_tells_at_its_start_and_its_end_what_it_could_not_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    make_halves(tmp_path / "shards", 64, {"3": "txt", "9": "webp", "20": "txt"})
    (tmp_path / "run.toml").write_text(RUN.format(folder=tmp_path, workers=0, more=""))
    folder = train(load_run_config(tmp_path / "run.toml"))
    told = [" ".join(line.split()) for line in capsys.readouterr().err.splitlines() if line.startswith("warning")]
    assert (
        "warning: 3 of 64 samples in 1 of 1 shards have no picture or none of txt: at its turn, another takes the place of "
        "each; `mmclip shards check` names them"
    ) in told
    end = next(line for line in told if "bad samples" in line)
    assert "no caption in txt (2, such as train/part-0.tar/" in end
    assert f"(1, such as train/part-0.tar/9); each is named in {folder}/quarantine.jsonl" in end


def test_a_resumed_run_goes_on_counting(tmp_path: Path):
    make_halves(tmp_path / "shards", 64, {"3": "txt", "9": "webp", "20": "txt"})
    text = RUN.format(folder=tmp_path, workers=0, more="").replace("epochs = 1", "steps = 4")
    (tmp_path / "run.toml").write_text(text + "[checkpoint]\nevery_steps = 2\n")
    config = load_run_config(tmp_path / "run.toml", ["--log_every_steps", "1", "--evaluation.report", "False"])
    folder = train(config)
    counts = [json.loads(line)["train/bad_samples"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert counts[-1] == 6, "three in each of two epochs"
    shutil.rmtree(folder / "checkpoints" / "step-00000004")
    train(config, resume=True)
    again = [json.loads(line)["train/bad_samples"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert again == counts, "the budget and the report count the whole run, not what came since its last start"


def test_a_share_of_none_allows_none(tmp_path: Path):
    make_halves(tmp_path / "shards", 64, {"3": "txt"})
    text = RUN.format(folder=tmp_path, workers=0, more="max_bad_fraction = 0.0")
    (tmp_path / "run.toml").write_text(text)
    with pytest.raises(UserError, match="only 63 samples are left.*expected both in each"):
        train(load_run_config(tmp_path / "run.toml"))
    assert not (tmp_path / "run").exists()
    rotten = make_shards(tmp_path / "rotten", 1)
    (tmp_path / "run.toml").write_text(text.replace("/shards", "/rotten"))
    with pytest.raises(
        UserError,
        match=rf"^1 of \d+ samples were bad, more than data.max_bad_fraction=0.0 allows: member 'webp': expected checksum "
        rf"\.\.\., got \.\.\. \(1, such as {rotten[0]}\); each is named in .*quarantine.jsonl\*\. Mend them",
    ):
        train(load_run_config(tmp_path / "run.toml"))
