import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix as sklearn_confusion
from sklearn.metrics import f1_score, recall_score

from mmclip_eval.metrics import confusion
from mmclip_eval.metrics.classification import true_class_rank
from mmclip_eval.metrics.confusion import (
    chance_macro_f1,
    confusion_matrix,
    f1_of_classes,
    macro_f1,
    macro_f1_interval,
    macro_recall,
    rank_and_prediction,
)


def random_predictions(samples=400, seed=0):
    """Six classes; the fourth is named but never true, the last is neither."""
    generator = torch.Generator().manual_seed(seed)
    share = torch.tensor([0.6, 0.25, 0.1, 0.0, 0.05, 0.0])
    labels = torch.multinomial(share, samples, replacement=True, generator=generator)
    scores = torch.rand(samples, 6, generator=generator) + 0.5 * torch.eye(6)[labels]
    scores[:, 5] = -1
    return scores, labels


def test_the_highest_score_is_the_prediction():
    scores, labels = random_predictions()
    assert torch.equal(rank_and_prediction(scores, labels)[1], scores.argmax(dim=1))


def test_a_tie_with_the_true_class_is_taken_for_the_first_rival():
    scores = torch.tensor([[0.5, 0.5, 0.5], [0.5, 0.5, 0.5], [0.1, 0.9, 0.9], [0.9, 0.2, 0.2]])
    labels = torch.tensor([0, 2, 2, 0])
    assert rank_and_prediction(scores, labels)[1].tolist() == [1, 0, 1, 0]
    correct = rank_and_prediction(scores, labels)[1] == labels
    assert torch.equal(correct, true_class_rank(scores, labels) == 0)


def test_confusion_and_its_figures_agree_with_scikit_learn():
    scores, labels = random_predictions()
    predicted = rank_and_prediction(scores, labels)[1]
    matrix = confusion_matrix(predicted, labels, classes=6)
    pair = labels.numpy(), predicted.numpy()
    assert np.array_equal(matrix.numpy(), sklearn_confusion(*pair, labels=np.arange(6)))
    present = np.unique(labels.numpy())
    assert macro_recall(matrix) == pytest.approx(recall_score(*pair, labels=present, average="macro"), abs=1e-12)
    assert macro_f1(matrix) == pytest.approx(f1_score(*pair, labels=present, average="macro"), abs=1e-12)
    of_present = f1_of_classes(matrix)[present].numpy()
    assert of_present == pytest.approx(f1_score(*pair, labels=present, average=None), abs=1e-12)
    assert bool(f1_of_classes(matrix)[5].isnan())


def test_each_replicate_of_macro_f1_is_that_of_its_samples(replicates_of):
    scores, labels = random_predictions(samples=80)
    predicted = rank_and_prediction(scores, labels)[1]
    counts, figures = replicates_of(confusion, lambda: macro_f1_interval(predicted, labels, classes=6))
    for count, figure in zip(counts, figures, strict=True):
        drawn = torch.from_numpy(np.repeat(np.arange(80), count))
        matrix = confusion_matrix(predicted[drawn], labels[drawn], classes=6)
        assert figure == pytest.approx(macro_f1(matrix), abs=1e-12)


def test_interval_of_macro_f1_holds_the_figure():
    scores, labels = random_predictions()
    predicted = rank_and_prediction(scores, labels)[1]
    low, high = macro_f1_interval(predicted, labels, classes=6)
    assert low < macro_f1(confusion_matrix(predicted, labels, classes=6)) < high


def test_chance_of_macro_f1_is_what_random_predictions_get():
    _, labels = random_predictions(samples=100_000)
    predicted = torch.randint(6, (100_000,), generator=torch.Generator().manual_seed(5))
    assert macro_f1(confusion_matrix(predicted, labels, 6)) == pytest.approx(chance_macro_f1(labels, 6), abs=0.002)
