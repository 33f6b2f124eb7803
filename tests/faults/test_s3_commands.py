"""The commands on an S3 that fails: one message and its exit code, or the run that a disk would have given."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import fsspec
import pytest

from mmclip_data.testing.store_faults import FaultyServer, Request, SeededFaults

pytestmark = [pytest.mark.xdist_group("s3"), pytest.mark.slow]
BIN = Path(sys.executable).parent

RUN = """# A very small model on a store.
output = "new"
global_batch_size = 4
precision = "fp32"
length = { steps = 2 }
data = { workers = 0, source = { type = "tars", shards = "%s", cache = { folder = "cache", retry_seconds = 5.0 } } }
evaluation = { report = false }

[model.inline]
embed_dim = 16
vision_cfg = { image_size = 32, patch_size = 16, width = 16, layers = 1, head_width = 16 }
text_cfg = { context_length = 8, vocab_size = 49408, width = 16, heads = 1, layers = 1 }
"""


def command(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(BIN / "mmclip"), *words],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=dict(os.environ),
    )


@pytest.mark.parametrize(
    ("shards", "fault", "code", "message"),
    [
        ("s3://data/trian", None, 2, "mmclip: shards='s3://data/trian': nothing at s3://data/trian"),
        (
            "s3://data/train/{0..9}.tar",
            None,
            2,
            "nothing at s3://data/train/4.tar and 5 more; nearest in s3://data/train: ",
        ),
        ("s3://no-such-bucket/0.tar", None, 2, "nothing at s3://no-such-bucket/0.tar"),
        (
            "s3://data/train/0.tar",
            "403",
            3,
            "mmclip: s3://data/train/0.tar: forbidden (403); credentials come from AWS_",
        ),
        (
            "http://127.0.0.1:9/0.tar",
            None,
            3,
            "mmclip: http://127.0.0.1:9/0.tar: no answer (Connection refused); given up after",
        ),
        (
            "http://no-such-host.invalid/0.tar",
            None,
            3,
            "no answer (the host has no address: a wrong name, or no network)",
        ),
        ("s3://data/train/0.tar", "500", 3, "mmclip: s3://data/train/0.tar: the store answers 500; given up after"),
        ("hdfs://data/train/0.tar", None, 2, "stores of the kind hdfs:// are not read; expected one of s3://"),
    ],
)
def test_a_mistake_ends_in_seconds_with_one_message(
    proxy: FaultyServer, tmp_path: Path, shards: str, fault: str | None, code: int, message: str
):
    (tmp_path / "run.toml").write_text(RUN % shards)
    proxy.choose = lambda request: fault
    done = command(tmp_path, "train", "run.toml")
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "new").exists(), "refused before anything is written"


def test_index_train_and_resume_from_a_store_as_commands(proxy: FaultyServer, tmp_path: Path, disk: Path):
    s3 = fsspec.filesystem("s3", skip_instance_cache=True)
    for number in range(2):
        s3.pipe_file(f"data/fresh/{number}.tar", (disk / f"{number}.tar").read_bytes())
    os.environ["XDG_CACHE_HOME"] = str(tmp_path / "home")
    try:
        indexed = command(tmp_path, "shards", "index", "s3://data/fresh")
    finally:
        del os.environ["XDG_CACHE_HOME"]
    assert indexed.returncode == 0, indexed.stderr
    assert "24 samples in all" in indexed.stdout + indexed.stderr
    (tmp_path / "run.toml").write_text(RUN % "s3://data/fresh")
    proxy.choose = SeededFaults(5, kinds=("500", "503", "short", "drop"))
    done = command(tmp_path, "train", "run.toml")
    assert done.returncode == 0, done.stderr
    (tmp_path / "local").mkdir()
    for number in range(2):
        for suffix in ("", ".mmidx"):
            shutil.copy(disk / f"{number}.tar{suffix}", tmp_path / "local")
    (tmp_path / "local.toml").write_text((RUN % "local").replace('"new"', '"same"'))
    assert command(tmp_path, "train", "local.toml").returncode == 0
    for name in ("ledger.jsonl",):
        assert (tmp_path / "new" / name).read_bytes() == (tmp_path / "same" / name).read_bytes()
    resumed = command(tmp_path, "train", "run.toml", "--resume", "--data.source.cache.mode", "range")
    assert resumed.returncode == 0, resumed.stderr


def test_an_error_of_the_store_in_the_middle_of_a_run_is_code_3(proxy: FaultyServer, tmp_path: Path):
    text = (
        (RUN % "s3://data/train")
        .replace("steps = 2", "steps = 400")
        .replace("retry_seconds", 'mode = "range", retry_seconds')
    )
    (tmp_path / "run.toml").write_text(text)
    reads = [0]

    def choose(request: Request) -> str | None:
        reads[0] += request.method == "GET" and request.path.endswith(".tar")
        return "403" if reads[0] > 40 else None

    proxy.choose = choose
    done = command(tmp_path, "train", "run.toml")
    assert done.returncode == 3, done.stderr
    assert "forbidden (403)" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "new").glob("quarantine*")), "no sample was replaced"
