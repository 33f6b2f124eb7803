import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, top_k_accuracy_score

from mmclip_eval.metrics.classification import mean_per_class_recall, top_k_accuracy, true_class_rank


def test_hand_made_scores_give_their_ranks():
    scores = torch.tensor([[0.9, 0.1, 0.5], [0.9, 0.1, 0.5], [0.9, 0.1, 0.5]])
    assert true_class_rank(scores, torch.tensor([0, 2, 1])).tolist() == [0, 1, 2]


def test_a_tie_with_another_class_is_never_a_win():
    scores = torch.tensor([[0.5, 0.5, 0.1], [0.5, 0.5, 0.5]])
    rank = true_class_rank(scores, torch.tensor([0, 0]))
    assert rank.tolist() == [1, 2]
    assert top_k_accuracy(rank, 1) == 0.0


@pytest.mark.parametrize("k", [1, 2, 5])
def test_top_k_accuracy_agrees_with_scikit_learn(k):
    generator = torch.Generator().manual_seed(k)
    scores = torch.rand(500, 7, generator=generator)
    labels = torch.randint(7, (500,), generator=generator)
    expected = top_k_accuracy_score(labels.numpy(), scores.numpy(), k=k, labels=np.arange(7))
    assert top_k_accuracy(true_class_rank(scores, labels), k) == pytest.approx(expected, abs=1e-12)


def test_mean_per_class_recall_agrees_with_scikit_learn_on_unbalanced_classes():
    generator = torch.Generator().manual_seed(0)
    labels = torch.multinomial(torch.tensor([0.7, 0.2, 0.08, 0.02]), 400, replacement=True, generator=generator)
    scores = torch.rand(400, 4, generator=generator) + 0.4 * torch.eye(4)[labels]
    correct = true_class_rank(scores, labels) < 1
    expected = balanced_accuracy_score(labels.numpy(), scores.argmax(dim=1).numpy())
    assert mean_per_class_recall(correct, labels) == pytest.approx(expected, abs=1e-12)
    assert mean_per_class_recall(correct, labels) != pytest.approx(float(correct.double().mean()), abs=1e-3)


def test_a_class_without_samples_does_not_count_as_zero_recall():
    labels = torch.tensor([0, 0, 3])
    assert mean_per_class_recall(torch.tensor([True, False, True]), labels) == 0.75


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_score_that_is_not_finite_is_refused(bad):
    with pytest.raises(ValueError, match="non-finite"):
        true_class_rank(torch.tensor([[0.1, bad]]), torch.tensor([0]))


@pytest.mark.parametrize("label", [-1, 2])
def test_a_label_outside_the_classes_is_refused(label):
    with pytest.raises(ValueError, match="expected 0 to 1"):
        true_class_rank(torch.zeros(1, 2), torch.tensor([label]))
