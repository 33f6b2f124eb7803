"""A run whose checkpoints are copied to an S3, which fails now and then; its disk is lost, and it goes on from there."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmclip.errors import UserError
from mmclip_data.testing.store_faults import Fault, FaultyServer, Request, SeededFaults
from mmclip_launch.mirror.place import Place
from mmclip_launch.run.config import load_run_config
from mmclip_launch.train import train

pytestmark = pytest.mark.xdist_group("s3")

RUN = """
output = "unused"
global_batch_size = 8
precision = "fp32"
device = "cpu"
length = { steps = 8 }
log_every_steps = 1
checkpoint = { every_steps = 2 }
data = { source = { type = "tars", shards = "embedded:emoji/unseen-concept-noto.tar" }, workers = 0 }
model = { arch = "nano-vit-32" }
evaluation = { report = false }
mirror = { url = "%s" }
"""
FINAL = "checkpoints/step-00000008"


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., Path]:
    def begin(url: str, folder: Path, resume: bool = False) -> Path:
        (tmp_path / "run.toml").write_text(RUN % url)
        return train(load_run_config(tmp_path / "run.toml", ["--output", str(folder)]), resume)

    return begin


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_a_run_whose_disk_is_lost_ends_as_if_it_were_not(
    proxy: FaultyServer, start: Callable[..., Path], tmp_path: Path
):
    """Every seventh answer of the store is a fault; the last copy is taken away, as if never written."""
    proxy.choose = SeededFaults(1, ("500", "503", "drop"), rate=1 / 7)
    url = "s3://data/runs/lost"
    whole = start(url, tmp_path / "whole")
    place = Place(url)
    first, second = place.copies()
    assert first.step == 8
    assert second.step in (2, 4, 6), "whichever the store was quick enough for"
    place.store.remove(place.at("checkpoints", first.name))
    ledger = (whole / "ledger.jsonl").read_text()
    again = start(url, tmp_path / "again", resume=True)
    assert content(again / FINAL) == content(whole / FINAL)
    assert (again / "ledger.jsonl").read_text() == ledger
    assert [json.loads(line)["step"] for line in (again / "metrics.jsonl").read_text().splitlines()] == list(
        range(1, 9)
    )
    assert place.copies()[0].holder > first.holder
    with pytest.raises(UserError, match="a run is there already: continue it with --resume"):
        start(url, tmp_path / "other")


def test_a_store_that_is_away_for_a_while_costs_the_run_nothing(
    proxy: FaultyServer, start: Callable[..., Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    url = "s3://data/runs/away"
    seen = []

    def script(request: Request) -> Fault | None:
        """Copies of the steps before the last fail."""
        seen.append(request)
        return "403" if "step-" in request.path and "step-00000008" not in request.path else None

    proxy.choose = script
    folder = start(url, tmp_path / "run")
    proxy.choose = lambda request: None
    assert [copy.step for copy in Place(url).copies()] == [8]
    said = " ".join(capfd.readouterr().err.split())
    assert "forbidden (403)" in said
    assert "the run goes on and tries again" in said
    assert "written again, after" in said
    shutil.rmtree(folder)
