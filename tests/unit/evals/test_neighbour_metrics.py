import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.neighbors import KNeighborsClassifier

from mmclip_eval.metrics import neighbours
from mmclip_eval.metrics.neighbours import neighbour_votes


def random_embeddings(seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (50,), generator=generator)
    centres = torch.randn(3, 8, generator=generator)
    gallery = F.normalize(centres[labels] + torch.randn(50, 8, generator=generator), dim=1)
    return F.normalize(torch.randn(23, 8, generator=generator), dim=1), gallery, labels


@pytest.mark.parametrize("k", [1, 5, 20, 50])
def test_votes_are_the_class_probabilities_of_scikit_learn(k):
    query, gallery, labels = random_embeddings()

    def weight(distance):  # of unit vectors: distance^2 = 2 - 2 cos
        return np.exp((1 - distance**2 / 2) / 0.07)

    oracle = KNeighborsClassifier(k, weights=weight, algorithm="brute").fit(gallery.double(), labels)
    votes = neighbour_votes(query.double(), gallery.double(), labels, classes=3, neighbours=k)
    shares = votes / votes.sum(dim=1, keepdim=True)
    assert shares.numpy() == pytest.approx(oracle.predict_proba(query.double()), abs=1e-6)


def test_more_neighbours_than_there_are_take_all():
    query, gallery, labels = random_embeddings()
    assert torch.equal(
        neighbour_votes(query, gallery, labels, 3, neighbours=50),
        neighbour_votes(query, gallery, labels, 3, neighbours=500),
    )


def test_the_order_of_the_gallery_decides_nothing_among_equals():
    gallery = F.normalize(torch.ones(6, 4), dim=1)
    labels = torch.tensor([0, 0, 0, 1, 1, 2])
    votes = neighbour_votes(gallery[:1], gallery, labels, classes=3, neighbours=2)
    assert votes.tolist() == [[3.0, 2.0, 1.0]]


def test_any_block_gives_the_same_votes(monkeypatch):
    query, gallery, labels = (torch.eye(6)[torch.arange(9) % 6], torch.eye(6), torch.arange(6) % 3)
    whole = neighbour_votes(query, gallery, labels, 3, neighbours=2)
    monkeypatch.setattr(neighbours, "BLOCK_ELEMENTS", 13)
    assert torch.equal(neighbour_votes(query, gallery, labels, 3, neighbours=2), whole)


def test_an_embedding_that_is_not_finite_is_refused():
    query, gallery, labels = random_embeddings()
    query[3, 0] = float("nan")
    with pytest.raises(ValueError, match="non-finite"):
        neighbour_votes(query, gallery, labels, 3)
    with pytest.raises(ValueError, match="empty gallery"):
        neighbour_votes(query, gallery[:0], labels[:0], 3)
