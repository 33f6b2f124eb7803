import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score, roc_curve

from mmclip_eval.metrics import outliers
from mmclip_eval.metrics.outliers import auroc, energy_score, fpr95, softmax_score


def random_scores(levels, seed=0):
    generator = torch.Generator().manual_seed(seed)
    inside = torch.randint(levels, (137,), generator=generator).float() + levels // 4
    return inside, torch.randint(levels, (90,), generator=generator).float()


def oracle(inside, outside):
    truth = np.repeat([1, 0], [len(inside), len(outside)])
    scores = np.concatenate([inside, outside])
    false, true, _ = roc_curve(truth, scores, drop_intermediate=False)
    return roc_auc_score(truth, scores), false[np.argmax(true >= 0.95)]


@pytest.mark.parametrize("levels", [4, 30, 100_000])
def test_both_figures_agree_with_scikit_learn_with_and_without_ties(levels):
    inside, outside = random_scores(levels)
    found = auroc(inside, outside)[0], fpr95(inside, outside)[0]
    assert found == pytest.approx(oracle(inside, outside), abs=1e-12)


@pytest.mark.parametrize(("figure", "index"), [(auroc, 0), (fpr95, 1)])
@pytest.mark.parametrize("levels", [5, 1000])
def test_each_replicate_is_the_figure_of_its_samples(figure, index, levels, replicates_of):
    inside, outside = random_scores(levels)
    counts, figures = replicates_of(outliers, lambda: figure(inside, outside))
    assert counts.shape[1] == 137 + 90
    for count, found in zip(counts, figures, strict=True):
        sides = np.repeat(inside.numpy(), count[:137]), np.repeat(outside.numpy(), count[137:])
        assert found == pytest.approx(oracle(*sides)[index], abs=1e-12)


def test_a_constant_score_separates_nothing():
    assert auroc(torch.zeros(5), torch.zeros(7)) == (0.5, (0.5, 0.5))
    assert fpr95(torch.zeros(5), torch.zeros(7)) == (1.0, (1.0, 1.0))


def test_ninety_five_per_cent_of_twenty_are_nineteen():
    inside = torch.arange(20).float()
    assert fpr95(inside, torch.tensor([0.5, 1.5, -1.0]))[0] == pytest.approx(1 / 3)


def test_energy_and_softmax_are_those_of_the_papers():
    logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    expected = np.log(np.exp(logits.double().numpy()).sum(axis=1))
    assert energy_score(logits).numpy() == pytest.approx(expected, abs=1e-12)
    assert softmax_score(logits).exp().numpy() == pytest.approx([np.exp(2 - expected[0]), 1 / 3], abs=1e-12)


def test_softmax_tells_samples_apart_where_its_value_rounds_to_one():
    scores = softmax_score(torch.tensor([[100.0, 50.0], [100.0, 40.0]]))
    assert float(scores[1]) > float(scores[0])


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ValueError, match="non-finite"):
        auroc(torch.tensor([float("nan")]), torch.tensor([0.0]))
    with pytest.raises(ValueError, match="0 samples inside and 1 outside"):
        fpr95(torch.zeros(0), torch.zeros(1))
