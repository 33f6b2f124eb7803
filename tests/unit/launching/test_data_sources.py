"""Whole runs over the sources that are not shards with an index, from the words of a run file."""

import io
import json
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from mmclip.errors import UserError
from mmclip_data.shards import ShardWriter
from mmclip_launch.run.config import load_run_config
from mmclip_launch.train import train

RUN = """
output = "{folder}/run"
global_batch_size = 4
precision = "fp32"
length = {{ steps = {steps} }}
checkpoint = {{ every_steps = 2 }}
evaluation = {{ report = false }}
[model]
arch = "nano-vit-32"
[data]
workers = 0
{source}
"""
MIXTURE = """
[data.source]
type = "mixture"
slots = 8
[[data.source.sources]]
weight = 3
source = {{ type = "tars", name = "a", shards = "{folder}/a" }}
[[data.source.sources]]
weight = 1
source = {{ type = "tars", name = "b", shards = "{folder}/b" }}
"""
CHANGE = """
[[data.source.changes]]
samples_seen = {samples}
weights = [1, 1]
"""


def picture(number: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (32, 32), (number, 9, 9)).save(out, "PNG")
    return out.getvalue()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for name in ("a", "b"):
        with ShardWriter(tmp_path / name, "{:d}.tar", samples_per_shard=8) as writer:
            for number in range(16):
                writer.add(f"{number:02d}", {"png": picture(number), "txt": f"number {number}".encode()})
    return tmp_path


def write_run(folder: Path, source: str, steps: int = 4) -> Path:
    path = folder / "run.toml"
    path.write_text(RUN.format(folder=folder, steps=steps, source=source.format(folder=folder, samples=16)))
    return path


def test_a_mixture_trains_says_its_shares_and_resumes(data: Path, capsys: pytest.CaptureFixture[str]):
    folder = train(load_run_config(write_run(data, MIXTURE)))
    told = capsys.readouterr().err
    assert "a: 75.0% = 12 samples = 0.75 epochs of 16" in told
    assert "captions of b from txt" in told
    ledger = (folder / "ledger.jsonl").read_text()
    last = max((folder / "checkpoints").iterdir())
    for path in last.iterdir():
        path.unlink()
    last.rmdir()
    train(load_run_config(folder / "config.toml"), resume=True)
    assert (folder / "ledger.jsonl").read_text() == ledger


def test_weights_may_change_ahead_of_a_resumed_run_and_not_behind_it(data: Path):
    folder = train(load_run_config(write_run(data, MIXTURE)))
    longer = load_run_config(write_run(data, MIXTURE + CHANGE))
    train(longer, resume=True)
    assert "samples_seen = 16" in (folder / "config.toml").read_text()
    (data / "run.toml").write_text((data / "run.toml").read_text().replace("samples_seen = 16", "samples_seen = 8"))
    with pytest.raises(UserError, match="the training data or its order changed since the run began"):
        train(load_run_config(data / "run.toml"), resume=True)


def test_a_batch_that_would_hold_a_sample_twice_is_refused_before_the_folder_is_made(data: Path):
    path = write_run(data, 'source = { type = "tars", shards = "%s/a" }'.replace("{", "{{").replace("}", "}}") % data)
    config = load_run_config(path, ["--global_batch_size", "32"])
    with pytest.raises(UserError, match=r"a batch would take 32 samples of train, which has 16"):
        train(config)
    assert not (data / "run").exists()
    train(load_run_config(path, ["--global_batch_size", "32", "--data.plan.sampling", "replacement"]))


def test_a_stream_trains_writes_what_came_and_refuses_to_resume(data: Path, capsys: pytest.CaptureFixture[str]):
    with tarfile.open(data / "stream.tar.gz", "w:gz") as tar:
        for number in range(16):
            for extension, content in (("png", picture(number)), ("txt", b"a number")):
                info = tarfile.TarInfo(f"{number:02d}.{extension}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    stream = 'source = {{ type = "streaming", shards = "{folder}/stream.tar.gz", samples = 16 }}'
    path = write_run(data, stream)
    folder = train(load_run_config(path))
    assert "--resume is refused" in capsys.readouterr().err
    (line,) = [json.loads(line) for line in (folder / "streamed.jsonl").read_text().splitlines()]
    assert line["samples"] >= 16
    assert line["damages"] == 0
    with pytest.raises(UserError, match="a stream has no place to go on from"):
        train(load_run_config(path), resume=True)


def test_a_dataset_of_parquet_trains(data: Path, capsys: pytest.CaptureFixture[str]):
    import datasets

    rows = {"image": [picture(n) for n in range(16)], "caption": [f"number {n}" for n in range(16)]}
    datasets.Dataset.from_dict(rows).to_parquet(str(data / "pairs.parquet"))
    source = 'source = {{ type = "datasets", path = "{folder}/pairs.parquet", cache_folder = "{folder}/cache" }}'
    folder = train(load_run_config(write_run(data, source)))
    assert "captions of pairs from json:caption" in capsys.readouterr().err
    assert len((folder / "ledger.jsonl").read_text().splitlines()) == 4


def test_a_run_may_leave_the_colours_to_the_device_and_then_keeps_to_it(data: Path):
    place = 'source = { type = "tars", shards = "{folder}/a" }\naugment = { flip = 0.5, brightness = 0.5 }\naugment_on = "%s"'
    losses = {}
    for name in ("loader", "device"):
        words = (place % name).replace("{ ", "{{ ").replace(" }", " }}")
        folder = train(load_run_config(write_run(data, words), ["--output", str(data / name)]))
        losses[name] = (folder / "ledger.jsonl").read_text()
    ids = {name: [json.loads(line)["ids"] for line in text.splitlines()] for name, text in losses.items()}
    assert ids["loader"] == ids["device"]
    assert losses["loader"] != losses["device"]
    with pytest.raises(UserError, match=r"data\.augment_on"):
        train(load_run_config(data / "device" / "config.toml", ["--data.augment_on", "loader"]), resume=True)
