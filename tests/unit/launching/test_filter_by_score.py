"""`mmclip shards filter --score`: the model's own scores decide, and a sample without one is named."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from mmclip.release import load
from mmclip.towers.two_tower import TwoTower
from mmclip.towers.weights import save_weights
from mmclip_data.loading.decode import decode_image
from mmclip_data.pipelines.filter import FilterConfig, make_filter
from mmclip_data.shards import ShardWriter, open_index
from mmclip_data.testing.shard_faults import make_shard
from mmclip_launch.cli import dispatch, run_verb
from mmclip_launch.shards.scoring import ClipScorer

MODEL = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 16, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 1, "layers": 1},
}
SAMPLES = make_shard(12).samples
BROKEN = "000005"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("model")
    save_weights(TwoTower(MODEL), folder)
    return folder


@pytest.fixture(scope="module")
def scores(checkpoint: Path) -> dict[str, float]:
    """The cosine of each sample, one by one."""
    model = load(str(checkpoint))
    found = {}
    for key, sample in SAMPLES.items():
        image = model.embed_uint8(model.spec.to_uint8(decode_image(sample["jpg"]))[None])
        found[key] = float(F.cosine_similarity(image, model.embed_texts([sample["txt"].decode()])))
    return {key: score for key, score in found.items() if key != BROKEN}


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    with ShardWriter(tmp_path / "in", "{:05d}.tar", 8) as writer:
        for key, sample in SAMPLES.items():
            writer.add(key, dict(sample) | ({"jpg": sample["jpg"][:40]} if key == BROKEN else {}))
    return tmp_path / "in"


def kept_in(folder: Path) -> set[str]:
    indexes = [open_index(tar) for tar in folder.glob("*.tar")]
    return {index.key(row) for index in indexes for row in range(index.num_samples)}


def filtered(checkpoint: Path, shards: Path, *words: str) -> int:
    return run_verb(
        dispatch,
        ["shards", "filter", str(shards), "--output", str(shards.parent / "out"), "--score", str(checkpoint), *words],
    )


def test_a_condition_may_ask_for_the_score(checkpoint, shards, scores, capsys):
    middle = sorted(scores.values())[5]
    words = ["--where", f"clip_score > {middle + 1e-4} and number >= 0", "--workers", "1"]
    assert filtered(checkpoint, shards, *words) == 0
    assert kept_in(shards.parent / "out") == {key for key, score in scores.items() if score > middle + 1e-4}
    lines = [json.loads(line) for line in (shards.parent / "out" / "dropped.jsonl").read_text().splitlines()]
    reasons = {line["source"][10:]: line["reason"] for line in lines}
    assert reasons.pop(BROKEN) == "sample cannot be read"
    assert {*reasons.values()} == {"where is false"}
    assert "clip_score of 11 samples: 5% below" in capsys.readouterr().err
    assert filtered(checkpoint, shards, *words) == 0
    assert "this job was finished before" in capsys.readouterr().err


def test_a_share_with_the_highest_scores_is_kept_however_the_set_is_cut(checkpoint, shards, scores):
    best = set(sorted(scores, key=lambda key: -scores[key])[:3])
    assert filtered(checkpoint, shards, "--keep-fraction", "0.3") == 0  # of 11 that have a score
    assert kept_in(shards.parent / "out") == best
    config = FilterConfig(shards=(str(shards),), output=shards.parent / "parts", keep_fraction=0.3, workers=1)
    make_filter(config, scorer=ClipScorer(str(checkpoint), rows_at_once=5))
    assert kept_in(config.output) == best


def test_kept_features_serve_another_threshold(checkpoint, shards, scores):
    words = ["--workers", "1", "--features", str(shards.parent / "features"), "--keep-fraction"]
    assert filtered(checkpoint, shards, *words, "0.5") == 0
    assert filtered(checkpoint, shards, *words, "0.3", "--overwrite") == 0
    assert kept_in(shards.parent / "out") == set(sorted(scores, key=lambda key: -scores[key])[:3])
    (journal,) = shards.parent.glob("features/*/done-*.jsonl")
    assert len(journal.read_text().splitlines()) == 1  # a line for each time that the block was encoded


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--keep-fraction", "1.5"], "keep_fraction=1.5: expected a share between 0 and 1"),
        (["--where", "clip_skore > 0"], "no field 'clip_skore' in 12 samples looked at; did you mean 'clip_score'?"),
        ([], "filter: nothing to filter by"),
    ],
)
def test_what_cannot_be_meant_is_told_before_anything_is_scored(tmp_path, shards, capsys, words, message):
    assert filtered(tmp_path / "no-checkpoint", shards, *words) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_a_share_needs_a_model(shards, capsys):
    words = ["shards", "filter", str(shards), "--output", str(shards.parent / "out"), "--keep-fraction", "0.5"]
    assert run_verb(dispatch, words) == 2
    assert "give --score CHECKPOINT" in capsys.readouterr().err
