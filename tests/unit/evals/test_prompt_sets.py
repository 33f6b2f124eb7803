import pytest
import torch

from mmclip.errors import UserError
from mmclip_eval.prompt_sets import load_prompts, packaged_sets
from mmclip_eval.zero_shot import class_weights


def test_every_packaged_set_loads_and_states_its_source():
    assert {"emoji", "none", "simple"} <= set(packaged_sets())
    for name in packaged_sets():
        prompts = load_prompts(name, where="test")
        assert prompts.source.startswith(f"mmclip:{name} (")
        assert len(set(prompts.fill("cat"))) == len(prompts.templates)


@pytest.mark.parametrize(
    ("template", "text"),
    [("a {c}.", "a {} cat."), ("a {}.", "a {} cat."), ("{c}, {c}", "{} cat, {} cat"), ("a {x} {c}", "a {x} {} cat")],
)
def test_both_placeholders_are_filled_once_and_other_braces_stay(template, text):
    assert load_prompts((template,), where="test").fill("{} cat") == [text]


def test_a_file_gives_the_same_hash_as_the_list_it_holds(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("a photo of a {c}.\n{c}\n")
    assert load_prompts(str(path), where="x").sha256 == load_prompts(("a photo of a {c}.", "{c}"), where="x").sha256
    assert load_prompts(str(path), where="x").sha256 != load_prompts(("{c}", "a photo of a {c}."), where="x").sha256


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ("imagenet1k_typo", "neither a file nor one of the packaged sets: .*simple"),
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
    weights = class_weights(["x", "y"], prompts, lambda texts: torch.tensor([table[text] for text in texts]))
    assert torch.allclose(weights, torch.tensor([[0.5**0.5, 0.5**0.5], [0.0, 1.0]]), atol=1e-7)


def test_equal_class_names_are_encoded_once_and_tie():
    seen = []

    def encode(texts):
        seen.extend(texts)
        return torch.eye(3)[: len(texts)]

    weights = class_weights(["crane", "dog", "crane"], load_prompts("none", where="t"), encode)
    assert seen == ["crane", "dog"]
    assert torch.equal(weights[0], weights[2])
    assert not torch.equal(weights[0], weights[1])
