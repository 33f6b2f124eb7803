"""Our figures are torchmetrics' on the same scores, to 1e-6. Importing torchmetrics takes seconds."""

import pytest
import torch

from mmclip_eval.metrics.calibration import confidence_of, reliability
from mmclip_eval.metrics.classification import mean_per_class_recall, top_k_accuracy, true_class_rank
from mmclip_eval.metrics.confusion import confusion_matrix, macro_f1, rank_and_prediction
from mmclip_eval.metrics.multilabel import average_precision
from mmclip_eval.metrics.outliers import auroc
from mmclip_eval.metrics.retrieval import recall_at_k

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("torchmetrics")]
SAMPLES, CLASSES = 500, 7


@pytest.fixture(scope="module")
def peer():
    from torchmetrics import functional

    return functional


@pytest.fixture
def scored():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(CLASSES, (SAMPLES,), generator=generator)
    return torch.randn(SAMPLES, CLASSES, generator=generator) + torch.eye(CLASSES)[labels], labels


def test_accuracies_recall_f1_and_confusion(peer, scored):
    scores, labels = scored
    sizes = {"num_classes": CLASSES}
    rank, predicted = rank_and_prediction(scores, labels)
    accuracy = peer.classification.multiclass_accuracy
    for k in (1, 5):
        expected = float(accuracy(scores, labels, average="micro", top_k=k, **sizes))
        assert top_k_accuracy(rank, k) == pytest.approx(expected, abs=1e-6)
    expected = float(accuracy(scores, labels, average="macro", **sizes))
    assert mean_per_class_recall(rank == 0, labels) == pytest.approx(expected, abs=1e-6)
    matrix = confusion_matrix(predicted, labels, CLASSES)
    assert torch.equal(matrix, peer.classification.multiclass_confusion_matrix(scores, labels, **sizes))
    expected = float(peer.classification.multiclass_f1_score(scores, labels, average="macro", **sizes))
    assert macro_f1(matrix) == pytest.approx(expected, abs=1e-6)


def test_average_precision_of_labels_that_are_not_exclusive(peer, scored):
    scores, _ = scored
    positive = torch.rand(SAMPLES, CLASSES, generator=torch.Generator().manual_seed(1)) < 0.3
    precision = peer.classification.multilabel_average_precision
    expected = precision(scores.sigmoid(), positive.long(), num_labels=CLASSES, average=None)
    assert average_precision(scores.sigmoid(), positive).numpy() == pytest.approx(expected.numpy(), abs=1e-6)


@pytest.mark.parametrize(("bins", "norm", "error"), [(15, "l1", "expected_error"), (10, "max", "largest_error")])
def test_calibration_error(peer, scored, bins, norm, error):
    scores, labels = scored
    calibration = peer.classification.multiclass_calibration_error
    expected = float(calibration(2 * scores, labels, num_classes=CLASSES, n_bins=bins, norm=norm))
    found = reliability(confidence_of(2 * scores), true_class_rank(scores, labels) == 0, bins)
    assert getattr(found, error) == pytest.approx(expected, abs=1e-6)


def test_area_under_the_curve(peer):
    generator = torch.Generator().manual_seed(2)
    inside, outside = (torch.randint(30, (size,), generator=generator) / 30 for size in (200, 120))
    truth = torch.tensor([1] * 200 + [0] * 120)
    expected = float(peer.classification.binary_auroc(torch.cat([inside, outside]), truth))
    assert auroc(inside, outside)[0] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("k", [1, 5, 10])
def test_recall_of_a_retrieval_counts_a_query_with_a_hit_once(peer, k):
    similarity = torch.rand(40, 120, generator=torch.Generator().manual_seed(3))
    owner = torch.arange(120) % 40
    own = owner[None, :] == torch.arange(40)[:, None]
    expected = sum(
        float(peer.retrieval.retrieval_hit_rate(row, mine, top_k=k)) for row, mine in zip(similarity, own, strict=True)
    )
    assert recall_at_k(similarity, owner, k) == pytest.approx(expected / 40, abs=1e-6)
