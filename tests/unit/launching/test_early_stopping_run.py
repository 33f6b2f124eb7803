"""A run that is chosen by a figure: it ends early, keeps its best checkpoint, and stands for it from then on."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mmclip import load
from mmclip.errors import GuardError, UserError
from mmclip_launch.run.config import load_run_config
from mmclip_launch.run.scoring.identity import identity_of, said_of
from mmclip_launch.train import train

RUN = """
output = "run"
global_batch_size = 12
precision = "fp32"
device = "cpu"
length = { steps = 12 }
data = { source = { type = "tars", shards = "embedded:emoji/unseen-concept-noto.tar" }, workers = 0 }
checkpoint = { every_steps = 5, keep = 1 }
evaluation = { report = false, every_steps = 2, datasets = [
    { name = "dev", path = "embedded:emoji/unseen-concept-noto.tar", tasks = ["zero_shot_retrieval"] },
] }
early_stopping = { metric = "dev/image_retrieval_recall@1", patience = 2, min_delta = 0.5 }
[model.inline]
embed_dim = 16
vision_cfg = { image_size = 32, patch_size = 8, width = 32, layers = 1, head_width = 16 }
text_cfg = { context_length = 8, vocab_size = 49408, width = 16, heads = 1, layers = 1 }
"""


def begin(place: Path, text: str, *flags: str) -> Path:
    (place / "run.toml").write_text(text)
    return train(load_run_config(place / "run.toml", ["--output", str(place / "run"), *flags]))


def steps(run: Path) -> list[int]:
    return [int(path.name.removeprefix("step-")) for path in sorted((run / "checkpoints").glob("step-*"))]


def test_a_run_ends_when_nothing_gets_better_and_stands_for_its_best_weights(tmp_path: Path):
    run = begin(tmp_path, RUN)  # no gain is as large as min_delta: the start stays the best, and two evaluations follow
    watched = [json.loads(line) for line in (run / "early_stopping.jsonl").read_text().splitlines()]
    assert [line["step"] for line in watched] == [0, 2, 4]
    assert len((run / "ledger.jsonl").read_text().splitlines()) == 4
    assert steps(run) == [0, 4]  # the best stays beyond keep = 1
    taken, best, last = (load(run / part) for part in ("", "checkpoints/step-00000000", "checkpoints/step-00000004"))
    weight = "visual.proj"
    states = [model.backbone.state_dict()[weight] for model in (taken, best, last)]
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])
    said = said_of(identity_of(str(run)))
    assert "the result of its run: dev/image_retrieval_recall@1 = " in said
    assert "at step 0" in said
    results = [json.loads(path.read_text()) for path in (run / "results").glob("*.json")]
    assert {one["checkpoint"]["path"] for one in results} == {str(run / "checkpoints/step-00000000")}


def test_a_resumed_run_stops_where_it_stopped_before(tmp_path: Path):
    run = begin(tmp_path, RUN)
    before = {path: path.read_bytes() for path in run.glob("*.jsonl")}
    config = load_run_config(run / "config.toml")
    train(config, resume=True)
    assert steps(run) == [0, 4]
    lines = (run / "early_stopping.jsonl").read_bytes()
    assert lines == before[run / "early_stopping.jsonl"]


def test_a_resume_from_the_middle_chooses_as_the_run_in_one_piece(tmp_path: Path):
    text = RUN.replace("patience = 2, min_delta = 0.5", "patience = 3").replace("every_steps = 5", "every_steps = 2")
    (tmp_path / "a").mkdir()
    whole = begin(tmp_path / "a", text)
    last = steps(whole)[-1]
    (tmp_path / "b").mkdir()
    broken = begin(tmp_path / "b", text.replace("keep = 1", "keep = 9"))
    for step in steps(broken):
        if step > 4:
            for path in sorted((broken / f"checkpoints/step-{step:08d}").rglob("*"), reverse=True):
                path.unlink()
            (broken / f"checkpoints/step-{step:08d}").rmdir()
    train(load_run_config(broken / "config.toml"), resume=True)
    assert steps(broken)[-1] == last
    for name in ("early_stopping.jsonl", "result.json"):
        assert (broken / name).read_text() == (whole / name).read_text()
    taken = load(whole).backbone.state_dict()
    assert all(torch.equal(tensor, taken[name]) for name, tensor in load(broken).backbone.state_dict().items())


@pytest.mark.slow
def test_two_processes_stop_together(tmp_path: Path, on_two_ranks: Callable[..., str]):
    (tmp_path / "run.toml").write_text(RUN)
    on_two_ranks("train", "run.toml", cwd=tmp_path)
    assert steps(tmp_path / "run") == [0, 4]


def test_a_star_watches_the_mean_of_what_fits(tmp_path: Path):
    folder = begin(tmp_path, RUN.replace("dev/image_retrieval_recall@1", "dev/*_recall@*"))
    watched = [json.loads(line)["value"] for line in (folder / "early_stopping.jsonl").read_text().splitlines()]
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    recalls = [[value for name, value in line.items() if "_recall@" in name] for line in lines]
    recalls = [found for found in recalls if found]
    assert all(len(found) == 6 for found in recalls)
    assert watched == [pytest.approx(sum(found) / 6) for found in recalls]


def test_a_set_or_a_figure_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(UserError, match="no evaluation set is named 'val'; there are: dev"):
        begin(tmp_path, RUN.replace('metric = "dev/', 'metric = "val/'))
    with pytest.raises(UserError, match=r"'dev/acc1' is no figure of this run; there are: dev/image_retrieval"):
        begin(tmp_path, RUN.replace("dev/image_retrieval_recall@1", "dev/acc1"))


RETAINED = """
[[retained.datasets]]
name = "kept"
path = "embedded:emoji/unseen-concept-twemoji.tar"
tasks = ["zero_shot_retrieval"]
"""


def test_what_was_forgotten_is_written_and_a_guard_fails_the_run_and_keeps_the_weights(tmp_path: Path):
    first = begin(
        tmp_path, RUN.replace("length = { steps = 12 }", "length = { steps = 30 }").replace("early", "#early")
    )
    (tmp_path / "b").mkdir()
    text = RUN.replace("early_stopping", "#") + f'init = "{first}"\n'
    text = text[: text.index("embed_dim")].replace("[model.inline]", f'[model]\ninit = "{first}"\n') + RETAINED
    with pytest.raises(GuardError) as failure:
        begin(tmp_path / "b", text, "--retained.max_forgetting", "0", "--optimizer.lr", "0.5")
    run = tmp_path / "b/run"
    message = str(failure.value)
    assert "max_forgetting=0.0" in message
    assert "mean" in message
    assert "The weights are kept" in message
    assert steps(run)[-1] == 12
    found = json.loads((run / "forgetting.json").read_text())
    lines = [json.loads(line) for line in (run / "retained.jsonl").read_text().splitlines()]
    assert {line["step"] for line in lines} == {0, 2, 4, 6, 8, 10}
    names = [one["name"] for one in found["figures"]]
    assert names == ["kept/image_retrieval_recall@1", "kept/text_retrieval_recall@1"]
    drops = [one["before"] - one["after"] for one in found["figures"]]
    assert found["mean"]["drop"] == pytest.approx(sum(drops) / 2)
    assert found["mean"]["drop"] > 0
    assert all(one["low"] < one["drop"] < one["high"] for one in found["figures"])
    assert "mean" in found["beyond"]
