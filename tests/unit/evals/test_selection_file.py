"""The files of SugarCrepe, Winoground and ARO, as their authors wrote them, with their pictures in a folder."""

import io
import json

import pytest
from PIL import Image

from mmclip.errors import UserError
from mmclip_eval.datasets import EvalDatasetConfig
from mmclip_eval.results.result import ModelIdentity
from mmclip_eval.samples import Samples
from mmclip_eval.sources.selection_file import SelectionFile
from mmclip_eval.suite import evaluate

SUGAR_CREPE = {
    "0": {"filename": "red.png", "caption": "a red thing", "negative_caption": "a blue thing"},
    "7": {"filename": "blue.png", "caption": "a red thing", "negative_caption": "a blue thing"},
}
WINOGROUND = [
    {"id": 0, "image_0": "red", "image_1": "blue", "caption_0": "all red", "caption_1": "all blue", "tag": "Object"},
    {"id": 1, "image_0": "red", "image_1": "green", "caption_0": "green", "caption_1": "red", "tag": "Relation"},
    {"id": 2, "image_0": "white", "image_1": "green", "caption_0": "white", "caption_1": "green", "tag": "Relation"},
]
ARO = [
    {
        "image_path": "halves.png",
        "true_caption": "green",
        "false_caption": "red",
        "relation_name": "on",
        **dict(zip(("bbox_x", "bbox_y", "bbox_w", "bbox_h"), box, strict=True)),
    }
    for box in ((20, 0, 20, 20), (0, 0, 20, 20))
]


@pytest.fixture
def root(tmp_path, picture):
    (tmp_path / "images").mkdir()
    for colour in ("red", "green", "blue", "white"):
        (tmp_path / "images" / f"{colour}.png").write_bytes(picture(colour))
    halves = Image.new("RGB", (40, 20), (255, 0, 0))
    halves.paste((0, 255, 0), (20, 0, 40, 20))
    halves.save(tmp_path / "images" / "halves.png")
    (tmp_path / "sugar.json").write_text(json.dumps(SUGAR_CREPE))
    (tmp_path / "wino.jsonl").write_text("\n".join(map(json.dumps, WINOGROUND)) + "\n")
    (tmp_path / "aro.json").write_text(json.dumps(ARO))
    return tmp_path


def measured(model, path, **settings):
    config = EvalDatasetConfig(name="set", path=str(path), **settings)
    (result,) = evaluate(model, [config], ModelIdentity(model="colours", precision="fp32"), chunk_size=4)
    return result


def values(result):
    return {name: estimate.value for name, estimate in result.metrics.items()}


def test_sugarcrepe_counts_the_pictures_that_prefer_their_own_caption(root, colour_model):
    result = measured(colour_model, root / "sugar.json")
    assert result.task == "image_caption_selection"
    assert values(result) == {"text_acc": 0.5, "image_acc": 1.0, "acc": 0.5}
    assert result.num_samples == 2


def test_winoground_has_two_pictures_an_instance_and_a_group_by_tag(root, colour_model):
    result = measured(colour_model, root / "wino.jsonl", group="json:tag")
    assert values(result) == pytest.approx({"text_acc": 2 / 3, "image_acc": 2 / 3, "acc": 2 / 3})
    assert result.details["num_pictures"] == 6
    assert [row[:2] for row in result.tables["groups"].rows] == [("Object", 1), ("Relation", 2)]


def test_aro_shows_the_part_of_the_picture_that_its_box_cuts_out(root, colour_model):
    samples = SelectionFile("set", root / "aro.json")
    parts = [Image.open(io.BytesIO(samples.image_bytes(i))) for i in range(2)]
    assert [part.size for part in parts] == [(20, 20), (20, 20)]
    assert [part.getpixel((10, 10)) for part in parts] == [(0, 255, 0), (255, 0, 0)]
    assert values(measured(colour_model, root / "aro.json"))["text_acc"] == 0.5


def test_the_orders_of_aro_have_one_right_caption_and_several_wrong_ones(root, colour_model):
    cases = [{"image": "red.png", "caption_options": ["red", "blue", "green", "white", "black"]}]
    (root / "order.json").write_text(json.dumps(cases))
    result = measured(colour_model, root / "order.json")
    assert (result.metrics["text_acc"].value, result.metrics["text_acc"].chance) == (1.0, 1 / 5)


def test_the_pictures_may_lie_in_another_folder(root, colour_model):
    (root / "images").rename(root / "val2017")
    with pytest.raises(UserError, match=r"sugar\.json, entry 0: no picture 'red\.png' in .*: set image_folder"):
        measured(colour_model, root / "sugar.json")
    settings = {"image_folder": str(root / "val2017")}
    assert values(measured(colour_model, root / "sugar.json", **settings))["text_acc"] == 0.5


def test_a_collapsed_model_selects_nothing(root, constant_model):
    for name in ("sugar.json", "wino.jsonl", "aro.json"):
        assert measured(constant_model, root / name).metrics["text_acc"].value == 0


def test_the_fingerprint_is_of_entries_and_pictures_and_not_of_the_folder(root, tmp_path_factory, picture):
    before = SelectionFile("set", root / "sugar.json").fingerprint
    moved = tmp_path_factory.mktemp("elsewhere") / "set"
    root.rename(moved)
    assert SelectionFile("other", moved / "sugar.json").fingerprint == before
    (moved / "images" / "red.png").write_bytes(picture("green"))
    changed = SelectionFile("set", moved / "sugar.json").fingerprint
    (moved / "sugar.json").write_text(json.dumps({"0": SUGAR_CREPE["0"]}))
    assert len({before, changed, SelectionFile("set", moved / "sugar.json").fingerprint}) == 3


def test_it_is_a_form_of_samples(root):
    samples = SelectionFile("set", root / "wino.jsonl")
    assert isinstance(samples, Samples)
    assert samples.extension_counts() == {"0.picture": 3, "1.picture": 3, "json": 3}
    assert samples.sample_id(1) == "set/wino.jsonl/1"
    assert set(samples.members(0, ("1.picture", "json", "txt"))) == {"1.picture", "json"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "no entry in it"),
        ("3", "expected a list or a table of entries, got int"),
        ('[{"picture": "a.png"}]', "entry 0: expected the keys of one of SugarCrepe: filename.*; got picture"),
        (
            json.dumps([{**ARO[0], "false_caption": " "}]),
            "entry 0: image_path, true_caption, false_caption must be texts",
        ),
        (json.dumps([{**ARO[0], "bbox_w": 0}]), "must be whole numbers of pixels, and make a box"),
        (json.dumps([{**ARO[0], "image_path": "../red.png"}]), "lies outside of the folder of pictures"),
        (json.dumps([{**ARO[0], "bbox_x": 400}]), r"sample set/a\.json/0.*box .* lies outside of a picture of 40 x 20"),
    ],
)
def test_a_file_that_is_none_of_the_forms_is_told(root, colour_model, content, message):
    (root / "a.json").write_text(content)
    with pytest.raises(UserError, match=message):
        measured(colour_model, root / "a.json")


def test_a_picture_that_cannot_be_decoded_is_told_with_its_instance(root, colour_model):
    (root / "images" / "blue.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"sample set/sugar\.json/7 cannot be decoded"):
        measured(colour_model, root / "sugar.json")
