"""All layers of two models side by side: anchors, matched layers, and what is said where there is no figure."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from mmclip.errors import UserError
from mmclip_data.features.layers import LayerFeatures, shared_rows
from mmclip_eval.compare.representation import anchors, panel
from mmclip_eval.compare.representation.anchors import drawn_rows
from mmclip_eval.compare.representation.cka import linear_cka
from mmclip_eval.compare.representation.matching import matched_layers
from mmclip_eval.compare.representation.measures import MEASURES
from mmclip_eval.compare.representation.panel import representation_panel

ROWS = 150


def names(blocks: int, kinds: Sequence[str] = ("pooled", "mean"), word: str = "block") -> tuple[str, ...]:
    return (*(f"{word} {block + 1} {kind}" for block in range(blocks) for kind in kinds), "embedding")


def model(seed: int, noise: float = 0.0, blocks: int = 2, width: int = 24, rows: int = ROWS) -> LayerFeatures:
    """Of one seed all have the same features but for noise of their own."""
    draw, other = np.random.default_rng(seed), np.random.default_rng([seed, int(noise * 1000)])
    seen, layers = draw.normal(size=(rows, 12)), []
    for _ in names(blocks):
        features = seen @ draw.normal(size=(12, width)) + 0.5 * draw.normal(size=(rows, width))
        layers.append(torch.from_numpy(features + noise * other.normal(size=features.shape)).float())
    return LayerFeatures("image", names(blocks), tuple(layers), torch.arange(rows))


def changed(features: LayerFeatures, layer: int, new: Tensor) -> LayerFeatures:
    layers = [*features.features]
    layers[layer] = new
    return LayerFeatures(features.tower, features.names, tuple(layers), features.kept)


def test_equal_weights_are_at_the_ceiling_by_every_measure():
    a = model(0)
    found = representation_panel(a, a)
    assert [pair.names for pair in found.pairs] == [(name, name) for name in a.names]
    for pair in found.pairs:
        assert not pair.notes
        assert pair.figures.keys() == MEASURES.keys()
        for name, figure in pair.figures.items():
            assert figure.value == pytest.approx(1, abs=1e-6), name
            assert figure.value == figure.ceiling, name
            assert figure.halves is not None
            assert figure.floor < figure.halves < 1, name
            assert figure.position == 1
            assert figure.low == pytest.approx(1, abs=1e-6), name
            assert figure.floor_from == "permuted pairs"


def test_rows_that_do_not_belong_together_are_at_the_floor():
    a = model(0)
    order = torch.from_numpy(np.random.default_rng(9).permutation(ROWS))
    b = LayerFeatures("image", a.names, tuple(layer[order] for layer in a.features), a.kept)
    for pair in representation_panel(a, b).pairs:
        for name, figure in pair.figures.items():
            half = (figure.high - figure.low) / 2
            assert abs(figure.value - figure.floor) < max(2 * half, 0.02), name
            assert figure.position < 0.1, name


def test_a_model_that_has_changed_a_little_lies_between():
    a = model(0)
    near, far = (representation_panel(a, model(0, noise)).pairs[-1].figures for noise in (0.3, 3.0))
    for name in MEASURES:
        assert near[name].low < near[name].value < near[name].high, name
        assert far[name].value < near[name].value < 1, name
        assert far[name].position <= near[name].position <= 1, name


def test_independent_models_are_the_floor_where_there_are_some():
    a, others = model(0), [model(5), model(6, blocks=4)]
    found = representation_panel(a, model(0, 0.5), others)
    figure = found.pairs[-1].figures["cka"]
    expected = np.mean([linear_cka(a["embedding"].numpy(), other["embedding"].numpy()) for other in others])
    assert figure.floor == pytest.approx(expected)
    assert figure.floor_from == "2 independent models"
    first = found.pairs[0].figures["procrustes"].floor  # block 1 of 2 stands beside block 2 of 4
    alone = representation_panel(a, others[1], others[1:]).pairs[0]
    assert alone.names == ("block 1 pooled", "block 2 pooled")
    assert alone.figures["procrustes"].value == pytest.approx(alone.figures["procrustes"].floor)
    assert alone.figures["procrustes"].floor_from == "1 independent model"
    beside = representation_panel(a, others[0], others[:1]).pairs[0].figures["procrustes"]
    assert first == pytest.approx((beside.floor + alone.figures["procrustes"].floor) / 2)


def test_the_matrix_has_all_layers_of_both():
    a, b = model(0), model(0, 1.0, blocks=3)
    found = representation_panel(a, b)
    assert found.cka.shape == (5, 7) == (len(found.layers), len(found.other_layers))
    assert float(found.cka[3, 5]) == pytest.approx(linear_cka(a.features[3].numpy(), b.features[5].numpy()))
    assert (found.tower, found.rows) == ("image", ROWS)


def test_layers_stand_beside_those_at_the_same_depth():
    assert matched_layers(names(2), names(4)) == [
        ("block 1 pooled", "block 2 pooled"),
        ("block 1 mean", "block 2 mean"),
        ("block 2 pooled", "block 4 pooled"),
        ("block 2 mean", "block 4 mean"),
        ("embedding", "embedding"),
    ]
    network = names(5, ["mean"], "stage")
    assert matched_layers(names(2), network)[0] == ("block 1 mean", "stage 2 mean")
    assert matched_layers(network, names(2))[0] == ("stage 1 mean", "block 1 mean")
    assert matched_layers(["pooled", "embedding"], names(2)) == [("embedding", "embedding")]
    assert matched_layers(["pooled", "embedding"], ["pooled", "embedding"]) == [
        ("pooled", "pooled"),
        ("embedding", "embedding"),
    ]


def test_the_same_draws_give_the_same_panel_and_more_rows_than_are_used_are_drawn(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(anchors, "KINDS", tuple(kind._replace(rows=60) for kind in anchors.KINDS))
    monkeypatch.setattr(panel, "MATRIX_ROWS", 70)
    a, b = model(0), model(0, 0.5)
    first, again, other = (representation_panel(a, b, seed=seed) for seed in (3, 3, 4))
    assert [pair.figures for pair in first.pairs] == [pair.figures for pair in again.pairs]
    assert torch.equal(first.cka, again.cka)
    assert first.pairs[0].figures != other.pairs[0].figures
    rows = drawn_rows(ROWS, 60, 3)
    assert set(rows) <= set(drawn_rows(ROWS, 70, 3))
    expected = linear_cka(a.features[0].numpy()[rows], b.features[0].numpy()[rows])
    assert first.pairs[0].figures["cka"].value == pytest.approx(expected)


def test_a_layer_that_has_collapsed_is_noted_and_the_others_are_compared():
    a = model(0)
    b = changed(model(0, 0.5), 1, torch.full((ROWS, 24), 0.37))
    found = representation_panel(a, b)
    assert not found.pairs[1].figures
    assert found.pairs[1].notes.keys() == MEASURES.keys()
    assert all("collapsed" in note for note in found.pairs[1].notes.values())
    assert all(pair.figures.keys() == MEASURES.keys() for pair in found.pairs if pair is not found.pairs[1])
    assert found.cka[:, 1].isnan().all()
    assert not found.cka[:, [0, 2, 3, 4]].isnan().any()


def test_few_rows_leave_canonical_correlations_out_and_say_so():
    found = representation_panel(model(0, rows=40), model(0, 0.5, rows=40))
    assert {"cca", "pwcca"} <= found.pairs[0].notes.keys()
    assert "40 rows are too few for 24 and 24 directions" in found.pairs[0].notes["cca"]
    assert {"cka", "procrustes", "neighbours", "rsa"} <= found.pairs[0].figures.keys()


def test_what_cannot_be_compared_is_refused():
    a = model(0)
    with pytest.raises(UserError, match="19 rows are too few"):
        representation_panel(model(0, rows=19), model(0, rows=19))
    with pytest.raises(UserError, match=r"not the same examples.*shared_rows"):
        representation_panel(a, a.rows(torch.arange(1, ROWS)))
    with pytest.raises(UserError, match="image tower beside those of the text tower"):
        representation_panel(a, LayerFeatures("text", a.names, a.features, a.kept))
    broken = a.features[2].clone()
    broken[4, 1] = float("inf")
    with pytest.raises(
        UserError, match=r"block 2 pooled of model 2 are not finite in 1 of 150 rows \(the first is row 4\)"
    ):
        representation_panel(a, changed(a, 2, broken))


def test_rows_that_both_models_have_can_be_taken():
    a = model(0)
    one, other = shared_rows([a.rows(torch.arange(1, ROWS)), a.rows(torch.arange(ROWS - 1))])
    assert one.kept.tolist() == other.kept.tolist() == list(range(1, ROWS - 1))
    assert torch.equal(one.features[0], a.features[0][1:-1])
    assert torch.equal(other.features[0], one.features[0])


def test_progress_counts_pairs_of_layers():
    steps: list[tuple[int, int]] = []
    representation_panel(model(0), model(1), track=lambda done, total: steps.append((done, total)))
    assert steps == [(done, 5) for done in range(1, 6)]
