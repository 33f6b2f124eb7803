import json
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from mmclip.errors import UserError
from mmclip_data.features.layers import LayerFeatures
from mmclip_eval.compare.representation.cka import linear_cka
from mmclip_eval.contrasim import prediction as cases
from mmclip_eval.contrasim.accuracy import accuracy_of, all_pairs, difference_of, found_layers, held_out_pairs
from mmclip_eval.contrasim.closed_form import CKA, MEASURES, cka_of, similarity_of
from mmclip_eval.contrasim.controls import rotated, unpaired, wrong_correspondence
from mmclip_eval.contrasim.layers import layers_of
from mmclip_eval.contrasim.predict import contrasim_of
from mmclip_eval.contrasim.prediction import LayerPrediction
from mmclip_eval.contrasim.settings import ContraSimConfig
from mmclip_eval.contrasim.splits import Fold
from mmclip_eval.contrasim.verdict import refusal_of_layers

SETTINGS = ContraSimConfig(hidden=(64,), out=16, steps=80, batch_size=16, lr=3e-3)
Models = Callable[[int], list[LayerFeatures]]
NAMES = [f"seed {number}" for number in range(5)]


@pytest.fixture(scope="module")
def refused(unrelated: Models) -> LayerPrediction:
    return contrasim_of(unrelated(5), NAMES, SETTINGS)


def test_wrong_correspondences_are_learnt_as_well_so_no_verdict_is_given(refused: LayerPrediction):
    assert refused.of(cases.SEEN).value == 1
    assert refused.of(cases.WRONG_OWN).value == 1
    assert refused.of(cases.WRONG_TRUE).value < 0.5
    assert refused.selectivity == 0
    assert refused.refusal is not None
    assert "selectivity is 0.0 points (at least 10 are needed)" in refused.refusal
    assert refused.verdict.startswith("no verdict: trained on layers matched at random")


def test_what_was_learnt_needs_no_paired_examples_and_no_rotation(refused: LayerPrediction):
    assert refused.of(cases.UNPAIRED).value > 0.9
    assert refused.of(cases.ROTATED).value < 0.6
    assert refused.of(cases.ROTATED, CKA) == refused.of(cases.SEEN, CKA)


def test_models_of_one_origin_get_a_verdict(related: Models):
    found = contrasim_of(related(5), NAMES, SETTINGS, held_out=(0, 1))
    assert found.held_out == (("seed 0", "seed 1"),)
    assert found.of(cases.HELD_OUT).value == 1
    assert found.of(cases.HELD_OUT).questions == 8
    assert found.of(cases.HELD_OUT, CKA).value < 0.6
    assert found.of(cases.WRONG_OWN).value < 0.6
    assert found.selectivity > 0.4
    assert found.refusal is None
    assert found.verdict.startswith("layers of models that training did not see are found in 100.0%")


def test_the_result_is_strict_json_of_plain_values(refused: LayerPrediction):
    found = json.loads(json.dumps(refused.to_json(), allow_nan=False))
    assert found["refused"] == refused.refusal
    assert found["chance"] == 0.25
    assert {row["case"] for row in found["learned"]} >= {cases.SEEN, cases.HELD_OUT, cases.WRONG_OWN}
    assert (found["train_rows"], found["test_rows"]) == (80, 40)


def test_the_same_seed_gives_the_same_figures(unrelated: Models):
    settings = replace(SETTINGS, steps=10)
    first, second = (contrasim_of(unrelated(5), NAMES, settings) for _ in range(2))
    assert first == second
    assert first != contrasim_of(unrelated(5), NAMES, replace(settings, seed=1))


def test_examples_of_the_test_are_not_trained_on(unrelated: Models, monkeypatch: pytest.MonkeyPatch):
    import mmclip_eval.contrasim.predict as module

    seen: list[torch.Tensor] = []
    fit = module.fit_layers

    def noting(models, *rest):
        seen.extend(models)
        return fit(models, *rest)

    monkeypatch.setattr(module, "fit_layers", noting)
    models = unrelated(5)
    contrasim_of(models, NAMES, ContraSimConfig(steps=1))
    rows = module.split_rows(120, ContraSimConfig(steps=1))
    size = models[0].features[0][rows.train].pow(2).mean().sqrt()
    assert torch.allclose(seen[0][0] * size, models[0].features[0][rows.train], atol=1e-5)
    assert len(seen) == 5 + 5 + 3  # seen, wrong correspondence, and the three that are not held out


@pytest.mark.parametrize(
    ("selectivity", "held_out", "low", "cka", "words"),
    [
        (0.099, 0.9, 0.8, 0.2, "selectivity is 9.9 points"),
        (0.5, 0.2, 0.18, 0.2, "it finds 20.0% of the layers, and debiased CKA, which learns nothing, 20.0%"),
        (0.5, 0.3, 0.167, 0.2, "its 30.0% on such models cannot be told from guessing, which finds 16.7%"),
        (0.1, 0.21, 0.168, 0.2, None),
    ],
)
def test_the_rule_of_the_verdict(selectivity: float, held_out: float, low: float, cka: float, words: str | None):
    reason = refusal_of_layers(selectivity, 0.9, held_out, low, 0.167, cka)
    assert (reason is None) if words is None else (reason is not None and words in reason)
    assert reason is None or ";" not in reason


def test_layers_are_found_as_a_triple_loop_finds_them():
    similarity = torch.rand(3, 4, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = wrong_correspondence(3, 4, seed=2)
    hits = found_layers(similarity, labels, all_pairs(3))
    for i in range(3):
        for j in range(3):
            for layer in range(4):
                best = int(similarity[i, layer, j].argmax())
                expected = float(labels[j, best] == labels[i, layer])
                assert hits[i, j, layer].isnan() if i == j else float(hits[i, j, layer]) == expected


def test_a_tie_with_a_wrong_layer_is_no_hit():
    labels = torch.arange(3).expand(2, 3)
    assert accuracy_of(found_layers(torch.zeros(2, 3, 2, 3), labels, all_pairs(2))).value == 0


def test_held_out_pairs_are_those_within_a_fold():
    asked = held_out_pairs(4, [Fold((0, 1), (2, 3)), Fold((2, 3), (0, 1))])
    assert asked.nonzero().tolist() == [[0, 1], [1, 0], [2, 3], [3, 2]]


def test_the_interval_is_of_models_and_layers_and_holds_the_figure():
    hits = (torch.rand(6, 6, 6, generator=torch.Generator().manual_seed(0)) < 0.3).double()
    hits[torch.eye(6, dtype=torch.bool)] = torch.nan
    found = accuracy_of(hits)
    assert found.questions == 180
    assert found.interval[0] < found.value < found.interval[1]
    # Layers that all pairs share are six observations, not 180: as wide as a share of six is.
    by_layer = hits.clone()
    by_layer[~by_layer.isnan()] = torch.tensor([1.0, 0, 0, 1, 0, 0]).repeat(30).double()
    low, high = accuracy_of(by_layer).interval
    assert high - low > 0.6


def test_a_perfect_accuracy_is_not_certain():
    hits = torch.ones(5, 5, 4, dtype=torch.float64)
    hits[torch.eye(5, dtype=torch.bool)] = torch.nan
    low, high = accuracy_of(hits).interval
    assert 0.8 < low < 0.9  # Wilson's, of the 20 layers of all models
    assert high == 1


def test_accuracies_on_other_questions_are_not_subtracted():
    hits = torch.ones(2, 2, 3)
    with pytest.raises(ValueError, match="same questions"):
        difference_of(hits, hits.where(torch.eye(2, dtype=torch.bool)[:, :, None], torch.nan))


def test_cka_of_all_layers_is_that_of_each_pair_and_does_not_see_a_rotation():
    models = list(torch.randn(2, 3, 40, 6, generator=torch.Generator().manual_seed(0)).unbind())
    found = cka_of(models)
    for i, left in enumerate(models[0]):
        for j, right in enumerate(models[1]):
            expected = linear_cka(left.double().numpy(), right.double().numpy())
            assert float(found[0, i, 1, j]) == pytest.approx(expected, abs=1e-9)
    assert torch.allclose(cka_of(rotated(models, seed=1)), found, atol=1e-5)


@pytest.mark.parametrize("name", sorted(MEASURES))
def test_a_measure_finds_the_layer_that_is_a_copy(name: str):
    layers = torch.randn(3, 60, 5, generator=torch.Generator().manual_seed(0))
    scores = similarity_of([layers, layers], MEASURES[name])
    hits = found_layers(scores, torch.arange(3).expand(2, 3), all_pairs(2))
    assert accuracy_of(hits).value == 1


def test_a_rotation_keeps_lengths_and_angles():
    (layers,) = rotated([torch.randn(2, 9, 5, generator=torch.Generator().manual_seed(0))], seed=0)
    before = torch.randn(2, 9, 5, generator=torch.Generator().manual_seed(0))
    assert not torch.allclose(layers, before)
    assert torch.allclose(layers @ layers.mT, before @ before.mT, atol=1e-4)


def test_unpaired_examples_are_the_same_ones_in_another_order_for_all_layers():
    model = torch.arange(12.0).view(2, 6, 1)
    (moved,) = unpaired([model], seed=0)
    assert moved[0].flatten().tolist() != model[0].flatten().tolist()
    assert sorted(moved[0].flatten().tolist()) == model[0].flatten().tolist()
    assert torch.equal(moved[1] - moved[0], torch.full((6, 1), 6.0))


def test_only_examples_that_all_models_have_are_compared(unrelated: Models):
    first, second = unrelated(2)
    part = second.rows(torch.tensor([4, 2, 90]))
    found = layers_of([first, part], ["a", "b"])
    assert torch.equal(found[0].layers[1], first.features[1][[2, 4, 90]])
    assert torch.equal(found[1].layers[1], second.features[1][[2, 4, 90]])
    assert found[0].layer_names == ("block 1 mean", "block 2 mean", "block 3 mean", "block 4 mean")


def test_models_that_do_not_correspond_are_refused(unrelated: Models):
    first, second = unrelated(2)
    shorter = LayerFeatures(second.tower, second.names[:3], second.features[:3], second.kept)
    with pytest.raises(UserError, match=r"same depth and tower; got a \(4 layers\), b \(3 layers\)"):
        layers_of([first, shorter], ["a", "b"])
    with pytest.raises(UserError, match="a: expected two layers or more with `pooled` features"):
        layers_of([first], ["a"], "pooled")
    ragged = LayerFeatures(first.tower, first.names, (first.features[0][:, :9], *first.features[1:]), first.kept)
    with pytest.raises(UserError, match="told by the width alone"):
        layers_of([ragged], ["a"])
