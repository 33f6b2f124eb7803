import json

import open_clip.zero_shot_metadata as published
import pytest
import torch

from mmclip.errors import UserError
from mmclip_eval.datasets import EvalDatasetConfig, open_samples
from mmclip_eval.prompts.packaged import packaged, packaged_sets
from mmclip_eval.prompts.prompt_set import ClassTexts, PromptSet
from mmclip_eval.prompts.reading import load_class_names, load_prompts
from mmclip_eval.zero_shot import class_weights

CUPL = {"cat": ["A cat purrs.", "Cats have whiskers."], "dog": ["A dog barks."]}


def texts_of(names, prompts):
    return ClassTexts(tuple((name,) if isinstance(name, str) else name for name in names), prompts)


def test_every_packaged_set_loads_and_states_its_source_and_licence():
    assert {"emoji", "none", "simple", "cifar10", "food101", "eurosat"} <= set(packaged_sets())
    for name in packaged_sets():
        prompts = load_prompts(name, where="test")
        assert prompts.source.startswith(f"mmclip:{name} (")
        assert prompts.license in ("MIT", "Apache-2.0")
        assert len(set(prompts.fill("cat"))) == len(prompts.templates)
    for name in packaged("names"):
        assert len(load_class_names(name, where="test").classes) > 1


def test_packaged_imagenet_prompts_and_names_are_those_that_open_clip_publishes():
    templates = [template("{c}") for template in published.OPENAI_IMAGENET_TEMPLATES]
    assert list(load_prompts("imagenet1k", "t").templates) == templates
    seven = [template("{c}") for template in published.SIMPLE_IMAGENET_TEMPLATES]
    assert list(load_prompts("imagenet1k_7", "t").templates) == seven
    names = [(name,) for name in published.IMAGENET_CLASSNAMES]
    assert list(load_class_names("imagenet1k", "t").classes) == names


@pytest.mark.parametrize(
    ("template", "text"),
    [("a {c}.", "a {} cat."), ("a {}.", "a {} cat."), ("{c}, {c}", "{} cat, {} cat"), ("a {x} {c}", "a {x} {} cat")],
)
def test_both_placeholders_are_filled_once_and_other_braces_stay(template, text):
    assert load_prompts((template,), where="test").fill("{} cat") == [text]


def test_a_text_with_a_place_for_the_name_is_a_template():
    alone = load_prompts("a {c} in the wild", "t")
    assert alone.templates == ("a {c} in the wild",)
    assert alone.sha256 == load_prompts(["a {c} in the wild"], "t").sha256
    with pytest.raises(UserError, match="neither a file nor one of the packaged prompt sets"):
        load_prompts("a thing in the wild", "t")


def test_several_names_of_one_class_alone_are_told_apart_from_several_classes():
    with pytest.raises(
        UserError, match=r"\['cat', 'dog'\] are several names of one class: .* a file with a name a line"
    ):
        load_class_names((("cat", "dog"),), "t")


def test_a_file_gives_the_same_hash_as_the_list_it_holds(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("a photo of a {c}.\n{c}\n")
    assert load_prompts(str(path), where="x").sha256 == load_prompts(("a photo of a {c}.", "{c}"), where="x").sha256
    assert load_prompts(str(path), where="x").sha256 != load_prompts(("{c}", "a photo of a {c}."), where="x").sha256


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (
            "imagenet1k_typo",
            "neither a file nor one of the packaged prompt sets: did you mean 'imagenet1k_7'. .*simple",
        ),
        (("a photo",), "'a photo' has no {c}"),
        ((), "no templates"),
    ],
)
def test_nothing_falls_back_in_silence(choice, message):
    with pytest.raises(UserError, match=f"my_set: .*{message}"):
        load_prompts(choice, where="my_set")


def test_class_weights_are_the_normalised_mean_of_normalised_templates():
    table = {"a x": [3.0, 0.0], "b x": [0.0, 5.0], "a y": [0.0, 1.0], "b y": [0.0, 2.0]}
    prompts = load_prompts(("a {c}", "b {c}"), where="test")
    weights = class_weights(texts_of(["x", "y"], prompts), lambda texts: torch.tensor([table[text] for text in texts]))
    assert torch.allclose(weights, torch.tensor([[0.5**0.5, 0.5**0.5], [0.0, 1.0]]), atol=1e-7)


def test_equal_class_names_are_encoded_once_and_tie():
    seen = []

    def encode(texts):
        seen.extend(texts)
        return torch.eye(3)[: len(texts)]

    weights = class_weights(texts_of(["crane", "dog", "crane"], load_prompts("none", where="t")), encode)
    assert seen == ["crane", "dog"]
    assert torch.equal(weights[0], weights[2])
    assert not torch.equal(weights[0], weights[1])


def test_a_class_of_several_names_is_the_mean_over_all_of_their_texts():
    table = {"a x": [1.0, 0.0, 0.0], "a X": [0.0, 4.0, 0.0], "a y": [0.0, 0.0, 1.0]}
    texts = texts_of([("x", "X"), "y"], load_prompts(("a {c}",), where="test"))
    assert texts.names == ("x", "y")
    weights = class_weights(texts, lambda asked: torch.tensor([table[text] for text in asked]))
    assert torch.allclose(weights, torch.tensor([[0.5**0.5, 0.5**0.5, 0.0], [0.0, 0.0, 1.0]]), atol=1e-7)


def test_texts_of_each_class_are_used_as_they_are():
    table = {"A cat purrs.": [1.0, 0.0], "Cats have whiskers.": [0.0, 1.0], "A dog barks.": [0.0, 2.0]}
    prompts = PromptSet("CuPL", texts_of={name: tuple(texts) for name, texts in CUPL.items()})
    weights = class_weights(texts_of(["dog", "cat"], prompts), lambda asked: torch.tensor([table[t] for t in asked]))
    assert torch.allclose(weights, torch.tensor([[0.0, 1.0], [0.5**0.5, 0.5**0.5]]), atol=1e-7)


def test_a_class_without_texts_of_its_own_is_an_error_that_names_it():
    prompts = PromptSet("CuPL", texts_of={"cat": ("A cat.",)})
    texts_of([("kitten", "cat")], prompts).check()
    with pytest.raises(UserError, match="CuPL: no texts for the class 'cats'; it has 1 classes, the nearest 'cat'"):
        texts_of(["cat", "cats"], prompts).check()


@pytest.mark.parametrize(
    ("content", "choice", "filled"),
    [
        (CUPL, "", ["A cat purrs.", "Cats have whiskers."]),
        ({"animals": CUPL}, "", ["A cat purrs.", "Cats have whiskers."]),
        ({"animals": CUPL, "plants": ["a {c}"]}, ":animals", ["A cat purrs.", "Cats have whiskers."]),
        ({"animals": ["a {c}", "the {c}"], "plants": ["{c}"]}, ":animals", ["a cat", "the cat"]),
        ({"mine": ["my {c}"], "plants": ["{c}"]}, "", ["my cat"]),
        ({"plants": ["one {c}"]}, "", ["one cat"]),
    ],
)
def test_json_of_clip_benchmark_and_of_cupl_is_read(tmp_path, content, choice, filled):
    path = tmp_path / "prompts.json"
    path.write_text(json.dumps(content))
    assert load_prompts(f"{path}{choice}", where="x", dataset="mine").fill("cat") == filled


@pytest.mark.parametrize(
    ("content", "choice", "message"),
    [
        ({"a": ["x {c}"], "b": ["y {c}"]}, "", "no data set 'mine'; there are a, b: name one behind a colon"),
        ({"a": ["x {c}"], "b": ["y {c}"]}, ":c", "no data set 'c'; there are a, b"),
        ({"a": ["x {c}"], "b": ["nothing"]}, "", "'a' has a template with {c}, and the text 'nothing' has none"),
        (CUPL, ":cat", "holds texts by class, and no data set 'cat'"),
        (["a {c}"], "", "expected an object"),
        ({"a": {"cat": []}}, "", "expected a list of templates, or texts by class"),
    ],
)
def test_a_json_file_that_leaves_a_choice_open_is_refused(tmp_path, content, choice, message):
    path = tmp_path / "prompts.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        load_prompts(f"{path}{choice}", where="x", dataset="mine")


def test_each_language_has_its_own_set_and_there_is_no_fallback_to_english():
    japanese = load_prompts("imagenet1k", "set", "ja")
    assert "悪い写真" in japanese.templates[0]
    assert japanese.sha256 != load_prompts("imagenet1k", "set").sha256
    assert load_prompts("imagenet1k", "set", "jp").sha256 == japanese.sha256  # as CLIP_benchmark spells it
    assert load_class_names("imagenet1k", "set", "zh").classes[1] == ("金鱼",)
    with pytest.raises(UserError, match="'imagenet1k' does not come in language 'de'; there are ar, en, ja, zh"):
        load_prompts("imagenet1k", "set", "de")
    with pytest.raises(UserError, match="list of class names 'mnist' does not come in language 'ja'; there are en"):
        load_class_names("mnist", "set", "ja")


def test_a_file_that_says_its_language_must_be_in_that_of_the_data_set(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('source = "me"\nlanguage = "de"\ntemplates = ["ein Bild von {c}"]\n')
    assert load_prompts(str(path), "set", "de").fill("Hund") == ["ein Bild von Hund"]
    with pytest.raises(UserError, match="is in language 'de', and the data set's is 'en'"):
        load_prompts(str(path), "set", "en")


def test_a_folder_whose_words_are_of_unknown_language_is_not_taken_for_another(classification_folder):
    settings = {"name": "colours", "path": str(classification_folder), "language": "it"}
    with pytest.raises(UserError, match="class_names and templates would be those of .* language is not known"):
        open_samples(EvalDatasetConfig(**settings)).read(("prompts",))
    names = str(classification_folder / "classnames.txt")
    dataset = open_samples(EvalDatasetConfig(**settings, class_names=names, templates=("una foto di {c}",)))
    assert dataset.prompts[0] == ["una foto di red"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("names.json", '[["red", "crimson"], "green", "blue"]'),
        ("names.json", '{"other": ["x", "y"], "set": [["red", "crimson"], "green", "blue"]}'),
        ("names.toml", 'class_names = [["red", "crimson"], "green", "blue"]'),
    ],
)
def test_synonyms_stand_in_a_file_and_label_samples(tmp_path, write_tar, picture, name, content):
    (tmp_path / name).write_text(content)
    write_tar(tmp_path / "a.tar", [{"cls": cls, "png": picture("red")} for cls in (b"crimson", b"red", b"blue")])
    settings = {"name": "set", "path": str(tmp_path / "a.tar"), "templates": ("a {c}",)}
    dataset = open_samples(EvalDatasetConfig(**settings, class_names=str(tmp_path / name)))
    assert dataset.labelled.labels.tolist() == [0, 0, 2]
    assert dataset.prompts[0] == ["a red", "a crimson"]
    assert "3 classes with 4 names, 1 template from given in the configuration" in dataset.prompts.words


def test_a_label_that_names_two_classes_is_refused(tmp_path, write_tar, picture):
    write_tar(tmp_path / "a.tar", [{"cls": b"crane", "png": picture("red")}])
    settings = EvalDatasetConfig(
        name="set", path=str(tmp_path / "a.tar"), templates="none", class_names=(("bird", "crane"), "crane")
    )
    with pytest.raises(UserError, match="label 'crane' is the name of several classes"):
        open_samples(settings).read(("labelled",))


def test_the_hash_of_all_texts_tells_names_apart_and_not_where_they_stand(tmp_path):
    simple = load_prompts("simple", "t")
    first = texts_of(["cat", "dog"], simple).sha256
    assert first == texts_of(["cat", "dog"], load_prompts(simple.templates, "t")).sha256
    assert (
        len({first, texts_of(["dog", "cat"], simple).sha256, texts_of(["cat", ("dog", "hound")], simple).sha256}) == 3
    )
