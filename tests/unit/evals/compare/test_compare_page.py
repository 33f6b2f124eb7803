"""The page of a comparison: complete, without a network, unharmed by what people write into names; and the strict result."""

import json
import re
import tomllib
from collections.abc import Callable
from dataclasses import replace
from importlib.resources import files
from typing import Any

import pytest
import torch

from mmclip_data.features.layers import LayerFeatures
from mmclip_eval.compare.assemble import More, Viewed, compare_viewed, known_figures
from mmclip_eval.compare.behaviour.seen import Seen
from mmclip_eval.compare.page.chapters import short_names
from mmclip_eval.compare.page.page import render_compare_page, write_compare_page
from mmclip_eval.compare.result import to_json
from mmclip_eval.compare.verdict import Rule, Thresholds
from mmclip_eval.sparse.config import SparseConfig

EVIL = '<script>alert("x")</script>'
LAYERS = ("block 1 pooled", "block 1 mean", "block 2 pooled", "block 2 mean", "embedding")


def packaged() -> Thresholds:
    table = tomllib.loads((files("mmclip_eval.compare") / "thresholds.toml").read_text())
    return Thresholds(rule=tuple(Rule(**rule) for rule in table["rule"]))


def layers(seen: Seen, seed: int) -> tuple[LayerFeatures, ...]:
    generator = torch.Generator().manual_seed(seed)
    found = []
    for tower, embed in (("image", seen.image_embed), ("text", seen.caption_embed)):
        assert embed is not None
        mixes = [torch.randn(embed.shape[1], 12, generator=generator) for _ in LAYERS[:-1]]
        features = (*(embed @ mix + 0.1 * torch.randn(len(embed), 12, generator=generator) for mix in mixes), embed)
        found.append(LayerFeatures(tower, LAYERS, features, torch.arange(len(embed))))
    return tuple(found)


@pytest.fixture
def viewed(says: Callable[..., Seen], truth: list[int]) -> Callable[..., Viewed]:
    def made(name: str, *wrong: int, seed: int = 0) -> Viewed:
        answers = [(label + 1) % 4 if number in wrong else label for number, label in enumerate(truth)]
        seen = says(answers, name)
        return Viewed(name, (seen,), layers(seen, seed))

    return made


def test_the_page_holds_the_verdict_and_the_flipped_pictures(viewed: Callable[..., Viewed], tmp_path, page_reader: Any):
    found = compare_viewed(viewed("old", 0), viewed("new", 1, 2, 3, seed=1), (), packaged())
    path = tmp_path / "page" / "index.html"
    size = write_compare_page(path, found, "mmclip compare old new", "a loom")
    text = path.read_text(encoding="utf-8")
    assert size == len(text.encode()) < 2_000_000
    reader = page_reader(text)
    assert [name for name, n in reader.ids.items() if n > 1 and not re.fullmatch(r"f[0-9a-f]{10}-\d+", name)] == []
    assert [a for a in reader.addresses if not a.startswith(("#", "data:image/"))] == []
    assert {a[1:] for a in reader.addresses if a.startswith("#")} <= set(reader.ids)
    assert "url(http" not in text
    assert found.verdict.word in reader.words
    assert "Right before, wrong now: 3 pictures" in reader.words
    assert "Wrong before, right now: 1 picture" in reader.words
    assert reader.tags["article"] >= 4
    assert "Layers of the image towers" in reader.words
    assert "Layers of the text towers" in reader.words
    for reason in found.verdict.reasons:
        assert reason in reader.words
    assert text == render_compare_page(found, "mmclip compare old new", "a loom"), "the same comparison, the same page"


def test_what_people_write_into_names_stays_text(viewed: Callable[..., Viewed], page_reader: Any):
    a, b = viewed(EVIL, 0), viewed("b", 1, seed=1)
    text = render_compare_page(compare_viewed(a, b, (), packaged()), EVIL, EVIL)
    assert page_reader(text).tags["script"] == 0


def test_independent_models_are_named_and_are_the_floor(viewed: Callable[..., Viewed], page_reader: Any):
    found = compare_viewed(viewed("a"), viewed("b", 1, seed=1), [viewed("c", 5, seed=2)], packaged())
    assert {one.floor_from for one in found.readings if one.figure == "representation.image.cka"} == {
        "1 independent model"
    }
    reader = page_reader(render_compare_page(found, "mmclip compare", "a loom"))
    assert "independent: c" in " ".join(reader.words.split())


def test_the_result_is_strict_and_names_the_flipped_samples(viewed: Callable[..., Viewed]):
    found = compare_viewed(viewed("old", 0), viewed("new", 1, 2, seed=1), (), packaged())
    table = json.loads(json.dumps(to_json(found), allow_nan=False))
    assert table["verdict"] == found.verdict.word
    flipped = {(one["sample"].rpartition("/")[2], one["flip"]) for one in table["sets"][0]["flipped"]}
    assert flipped == {("s0000", "won"), ("s0001", "lost"), ("s0002", "lost")}
    assert {one["figure"] for one in table["figures"]} <= set(known_figures())
    assert len(table["layers"][0]["cka"]) == len(LAYERS)
    judged = [one for one in table["figures"] if one["rule"] is not None]
    assert {one["rule"]["verdict"] for one in judged} <= {"safe", "look", "unsafe"}


def test_units_of_sparse_autoencoders_stand_on_the_page_where_asked_for(
    viewed: Callable[..., Viewed], monkeypatch, page_reader: Any
):
    monkeypatch.setattr("mmclip_eval.sparse.config.LEAST_ROWS", 20)
    more = More(sparse=SparseConfig(units=12, k=2, steps=60))
    found = compare_viewed(viewed("a"), viewed("b", 1, seed=1), (), packaged(), more)
    assert found.units is not None
    reader = page_reader(render_compare_page(found, "mmclip compare --sparse", "a loom"))
    assert "Units of the embeddings" in reader.words
    assert json.loads(json.dumps(to_json(found), allow_nan=False))["units"] is not None


def test_a_collapsed_layer_is_named_and_not_a_crash(viewed: Callable[..., Viewed], page_reader: Any):
    a, b = viewed("a"), viewed("b", 1, seed=1)
    image, text = b.layers
    dead = replace(image, features=(torch.ones(len(image), 12), *image.features[1:]))
    found = compare_viewed(a, replace(b, layers=(dead, text)), (), packaged())
    assert any("block 1 pooled" in note and "collapsed" in note for note in found.notes)
    json.dumps(to_json(found), allow_nan=False)
    page_reader(render_compare_page(found, "mmclip compare", "a loom"))


def test_every_packaged_rule_names_a_figure():
    assert {rule.figure for rule in packaged().rule} <= set(known_figures())


def test_names_of_drawings_begin_where_two_paths_differ():
    assert short_names("runs/a/checkpoints/step-1", "runs/a/checkpoints/step-2") == ("step-1", "step-2")
    assert short_names("runs/a", "runs/a") == ("runs/a", "runs/a")
    assert short_names("old", "runs/new") == ("old", "runs/new")
