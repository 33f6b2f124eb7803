"""The page as text: complete, without a network, unharmed by what people write into names and captions."""

import json
import re
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from mmclip_eval.datasets import EvalDatasetConfig
from mmclip_eval.report.pages.run_page import MOST_SETS, extent_of, write_page
from mmclip_eval.report.pages.subject import Subject
from mmclip_eval.results.result import ModelIdentity
from mmclip_eval.suite import evaluate

IDENTITY = ModelIdentity(model="colours", precision="fp32", checkpoint="runs/a", weights_sha256="00")
SUBJECT = Subject(
    name="colours",
    architecture="colours",
    command="mmclip eval x",
    machine="a loom",
    weights_sha256="00",
    logit_scale=10.0,
)
EVIL = '<script>alert("x")</script>&amp;\u202e"\'>'


@pytest.fixture
def page_of(page_reader: Any) -> Callable[..., Any]:
    """Writes the page of an evaluation, and reads it."""

    def made(tmp_path: Path, model, *datasets: EvalDatasetConfig, subject: Subject = SUBJECT, run: Path | None = None):
        evidence = []
        results = list(evaluate(model, datasets, IDENTITY, chunk_size=4, keep=evidence.append)) if datasets else []
        path = tmp_path / "report" / "index.html"
        size = write_page(path, subject, run, tmp_path / "results", results, evidence)
        assert size == path.stat().st_size < 5_000_000
        text = path.read_text(encoding="utf-8")
        reader = page_reader(text)
        # A drawing's ids are a hash of it: two equal drawings share them, and then mean the same.
        assert [name for name, n in reader.ids.items() if n > 1 and not re.fullmatch(r"f[0-9a-f]{10}-\d+", name)] == []
        assert [a for a in reader.addresses if not a.startswith(("#", "data:image/"))] == []
        assert {a[1:] for a in reader.addresses if a.startswith("#")} <= set(reader.ids)
        assert "url(http" not in text
        assert "@import" not in text
        return text, reader

    return made


def test_a_classification_set_is_shown_with_answers_names_confusions_and_maps(
    tmp_path, classification_folder, colour_model, page_of
):
    text, reader = page_of(tmp_path, colour_model, EvalDatasetConfig(name="set", path=str(classification_folder)))
    assert "5.00 / 6" not in text
    for words in (
        "0.8333",
        "0.3333",
        "a {c} thing",
        "What the model says",
        "From name to picture",
        "Confusion between",
    ):
        assert words in reader.words + text, words
    assert reader.words.count("✗") == 2  # the one wrong label, on the wall and among the mistakes
    assert reader.tags["img"] >= 6


def test_a_retrieval_set_is_shown_both_ways(tmp_path, retrieval_folder, colour_model, page_of):
    _, reader = page_of(tmp_path, colour_model, EvalDatasetConfig(name="set", path=str(retrieval_folder)))
    for words in ("From picture to caption", "From caption to picture", "rather red", "caption to picture, recall@1"):
        assert words in reader.words, words
    assert "Confusion between" not in reader.words


def test_what_people_write_into_names_stays_text(tmp_path, write_tar, picture, colour_model, page_of):
    names = [EVIL, "красный", "猫の顔", "سيارة", "red $x_1$ {c} {{ 7*7 }}", "e\u0301\U0001f600"]
    colours = ["red", "green", "blue", "white", "black", "red"]
    samples = [
        {"json": json.dumps({"n": n, "g": f"{n} group"}).encode(), "png": picture(c), "txt": n.encode()}
        for n, c in zip(names, colours, strict=True)
    ]
    write_tar(tmp_path / "a.tar", samples * 2)
    settings = EvalDatasetConfig(
        name=EVIL,
        path=str(tmp_path / "a.tar"),
        tasks=("zero_shot_classification", "zero_shot_retrieval"),
        label="json:n",
        group="json:g",
        templates="none",
    )
    subject = Subject(EVIL, EVIL, EVIL, EVIL, checkpoint=EVIL, logit_scale=3.0, problems=(EVIL,))
    text, reader = page_of(tmp_path, colour_model, settings, subject=subject)
    assert reader.tags["script"] == 0
    assert "<script" not in text
    for name in names:
        assert name in reader.words, name
    assert "49" not in re.findall(r"red \S+ \S+ (\S+)", reader.words)


def test_a_collapsed_model_has_a_page_too(tmp_path, classification_folder, retrieval_folder, constant_model, page_of):
    _, reader = page_of(
        tmp_path,
        constant_model,
        EvalDatasetConfig(name="a", path=str(classification_folder)),
        EvalDatasetConfig(name="b", path=str(retrieval_folder)),
    )
    assert "not above chance" in reader.words


def test_a_run_without_sets_shows_its_curves(tmp_path, colour_model, page_of):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.toml").write_text('global_batch_size = 8\n[length]\nsteps = 9\n[data.source]\ntype = "synthetic"\n')
    lines = [
        {"step": s, "samples_seen": 8 * s, "train/loss": 2.0, "health/modality_gap": "nan", "train/logit_scale": 14.0}
        for s in range(1, 5)
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    alarm = {"step": 2, "samples_seen": 16, "alarm": "collapse", "message": EVIL}
    (run / "alarms.jsonl").write_text(json.dumps(alarm) + "\n")
    _, reader = page_of(tmp_path, colour_model, run=run)
    for words in ("Logit scale", "Modality gap", "4 of 9 steps are done", "Alarm at step 2, collapse:", "synthetic"):
        assert words in reader.words, words
    assert "Each figure with its 95 % interval" not in reader.words


def test_figures_of_other_weights_are_marked_and_stay_out_of_the_head(
    tmp_path, classification_folder, colour_model, page_of
):
    other = ModelIdentity(model="colours", precision="fp32", checkpoint="runs/older", weights_sha256="11")
    old = EvalDatasetConfig(name="old", path=str(classification_folder))
    for result in evaluate(colour_model, [old], other):
        result.write(tmp_path / "results")
    new = EvalDatasetConfig(name="new", path=str(classification_folder))
    text, reader = page_of(tmp_path, colour_model, new)
    assert "These figures are of other weights: runs/older" in reader.words
    tiles = text[text.index('class="tiles"') : text.index('class="facts"')]
    assert "new: " in tiles
    assert "old: " not in tiles


def test_of_very_many_sets_the_last_are_shown_by_their_scores(tmp_path, classification_folder, colour_model, page_of):
    sets = [EvalDatasetConfig(name=f"set-{i}", path=str(classification_folder)) for i in range(MOST_SETS + 2)]
    text, reader = page_of(tmp_path, colour_model, *sets)
    assert f"shown by their scores alone: set-{MOST_SETS}, set-{MOST_SETS + 1}." in reader.words
    assert text.count('<section id="set-') == MOST_SETS
    assert text.count('class="card scores"') == MOST_SETS + 2


def test_the_same_evidence_gives_the_same_page(tmp_path, classification_folder, colour_model, page_of):
    settings = EvalDatasetConfig(name="set", path=str(classification_folder))
    assert page_of(tmp_path, colour_model, settings)[0] == page_of(tmp_path, colour_model, settings)[0]


def test_pictures_that_moved_away_are_named_on_the_page(tmp_path, classification_folder, colour_model, page_reader):
    evidence = []
    settings = EvalDatasetConfig(name="set", path=str(classification_folder))
    results = list(evaluate(colour_model, [settings], IDENTITY, keep=evidence.append))
    (classification_folder / "test" / "1.tar").unlink()
    evidence[0].dataset.samples.close()
    write_page(tmp_path / "index.html", SUBJECT, None, None, results, evidence)
    words = page_reader((tmp_path / "index.html").read_text()).words
    assert "A picture cannot be shown: set/1.tar/" in words
    assert "picture cannot be read" in words


def test_evidence_is_handed_out_once_a_set_after_its_results(
    tmp_path, classification_folder, retrieval_folder, colour_model
):
    seen = []
    datasets = [
        EvalDatasetConfig(name="a", path=str(classification_folder)),
        EvalDatasetConfig(name="b", path=str(retrieval_folder)),
    ]
    for result in evaluate(colour_model, datasets, IDENTITY, chunk_size=4, keep=lambda e: seen.append(e)):
        assert len(seen) == ["a", "b"].index(result.dataset)
    assert [e.dataset.config.name for e in seen] == ["a", "b"]
    assert [tuple(e.image_embed.shape) for e in seen] == [(6, 5), (4, 5)]
    assert seen[0].class_embed.shape == (3, 5)
    assert seen[0].caption_embed is None
    assert seen[1].caption_embed.shape == (5, 5)
    assert seen[1].class_embed is None


def test_groups_must_stand_in_every_sample(tmp_path, write_tar, picture, colour_model, page_of):
    from mmclip.errors import UserError

    write_tar(
        tmp_path / "a.tar",
        [{"cls": b"red", "json": b'{"g": "warm"}', "png": picture("red")}, {"cls": b"blue", "png": picture("blue")}],
    )
    settings = EvalDatasetConfig(name="a", path=str(tmp_path / "a.tar"), group="json:g", templates="none")
    with pytest.raises(UserError, match=r"a/a\.tar/s0000001: no label at json:g"):
        page_of(tmp_path, colour_model, settings)


@pytest.mark.parametrize("sets", [0, 1, 2, 3, 4, MOST_SETS])
def test_pictures_of_any_number_of_sets_leave_room_for_the_rest_of_the_page(sets):
    # base64 makes four bytes of three; a megabyte is left for drawings and words.
    assert extent_of(sets).picture_bytes * max(1, sets) * 4 / 3 <= 2_000_000


def test_templates_and_style_come_with_the_package():
    folder = files("mmclip_eval.report") / "templates"
    names = {entry.name for entry in folder.iterdir()}
    assert {"index.html.j2", "parts.html.j2", "report.css"} <= names
