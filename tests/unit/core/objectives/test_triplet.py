"""Triplets over pairs against double loops and a public implementation."""

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pytorch_metric_learning import distances, losses, miners, reducers
from torch import Tensor

from mmclip.batch import PairLabels, TowerOutput
from mmclip.errors import UserError
from mmclip.objectives import ObjectiveContext, TripletConfig

ROWS, MARGIN = 9, 0.2
MINING = ("hardest", "semi_hard", "all")
COSINE = distances.DotProductSimilarity(normalize_embeddings=False)  # rows have length 1 already
every_mining = pytest.mark.parametrize("mining", MINING)


def pairs(rows: int = ROWS, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Captions near enough to their pictures that some margins hold and others do not."""
    generator = torch.Generator().manual_seed(seed)
    image, noise = torch.randn(2, rows, 4, dtype=torch.float64, generator=generator)
    image, text = F.normalize(image, dim=1), F.normalize(image + 0.7 * noise, dim=1)
    return image.requires_grad_(), text.requires_grad_()


def labels(rows: int = ROWS) -> PairLabels:
    """Captions that repeat, and two pictures that come twice."""
    columns = torch.stack([torch.arange(rows) % 3, torch.arange(rows) % (rows - 2) + 10], 1)
    return PairLabels(columns, columns.clone())


def run(image: Tensor, text: Tensor, known: PairLabels | None = None, **fields: Any) -> Any:
    config = TripletConfig(duplicates="negative" if known is None else "ignored", **fields)
    outputs = TowerOutput(image, text, torch.ones(1, dtype=image.dtype), None)
    return config.build()(outputs, ObjectiveContext(step=0, samples_seen=0, labels=known))


def one_direction(rows: Tensor, columns: Tensor, known: PairLabels | None, mining: str) -> tuple[Tensor, float]:
    """The loss, and the share of triplets within the margin, one triplet at a time."""
    terms, triplets = [], 0
    for i, row in enumerate(rows):
        own = torch.dot(row, columns[i])
        negatives = [
            torch.dot(row, column)
            for j, column in enumerate(columns)
            if j != i and not (known is not None and bool((known.image[i] == known.text[j]).any()))
        ]
        if mining == "semi_hard":
            negatives = [cosine for cosine in negatives if cosine < own]
        if mining != "all":
            negatives = sorted(negatives, key=Tensor.item)[-1:]
        triplets += len(negatives)
        terms += [torch.relu(MARGIN - own + cosine) for cosine in negatives]
    above = sum(term.item() > 0 for term in terms)
    if mining == "all":
        return torch.stack(terms).sum() / max(above, 1), above / triplets
    return torch.stack(terms).sum() / len(rows), above / len(rows)


def same(found: Tensor, expected: Tensor, inputs: tuple[Tensor, ...]) -> None:
    assert found.item() == pytest.approx(expected.item(), rel=1e-9)
    gradients = (torch.autograd.grad(loss, inputs) for loss in (found, expected))
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@every_mining
@pytest.mark.parametrize("duplicates", ["negative", "ignored"])
def test_it_is_its_definition_one_triplet_at_a_time(mining: str, duplicates: str):
    image, text = pairs()
    known = labels() if duplicates == "ignored" else None
    found = run(image, text, known, mining=mining, margin=MARGIN)
    to_text, text_share = one_direction(image, text, known, mining)
    to_image, image_share = one_direction(text, image, known, mining)
    assert 0 < text_share < 1
    assert found.report["within_margin"].item() == pytest.approx((text_share + image_share) / 2)
    same(found.loss, (to_text + to_image) / 2, (image, text))
    assert (known is None) or found.loss.item() != run(image, text, mining=mining).loss.item()


@every_mining
def test_it_equals_a_public_implementation_with_the_same_mining(mining: str):
    image, text = pairs()
    own = torch.arange(ROWS)
    reducer = reducers.AvgNonZeroReducer() if mining == "all" else reducers.SumReducer()
    loss = losses.TripletMarginLoss(margin=MARGIN, distance=COSINE, reducer=reducer)
    total = torch.zeros((), dtype=torch.float64)
    for rows, columns in ((image, text), (text, image)):
        chosen = chosen_by_peer(mining, rows.detach(), columns.detach())
        found = loss(rows, own, indices_tuple=chosen, ref_emb=columns, ref_labels=own.clone())
        total = total + found / (2 if mining == "all" else 2 * ROWS)
    same(run(image, text, mining=mining, margin=MARGIN).loss, total, (image, text))


def chosen_by_peer(mining: str, rows: Tensor, columns: Tensor) -> tuple[Tensor, ...] | None:
    """Anchors, positives and negatives."""
    own = torch.arange(ROWS)
    if mining == "all":
        return None
    if mining == "hardest":
        return miners.BatchHardMiner(distance=COSINE)(rows, own, columns, own.clone())
    miner = miners.TripletMarginMiner(margin=MARGIN, type_of_triplets="semihard", distance=COSINE)
    anchors, positives, negatives = miner(rows, own, columns, own.clone())
    nearest = {}
    for anchor, positive, negative in sorted(  # it returns all of them; FaceNet's are the hardest
        zip(anchors.tolist(), positives.tolist(), negatives.tolist(), strict=True),
        key=lambda triplet: torch.dot(rows[triplet[0]], columns[triplet[2]]).item(),
    ):
        nearest[anchor] = (anchor, positive, negative)
    return tuple(torch.tensor(list(nearest.values())).T)


@every_mining
def test_collapsed_embeddings_cost_the_margin_and_orthonormal_pairs_nothing(mining: str):
    one = torch.zeros(5, 4, dtype=torch.float64)
    one[:, 0] = 1
    expected = 0 if mining == "semi_hard" else MARGIN  # nothing is less similar than the pair
    assert run(one, one, mining=mining).loss.item() == pytest.approx(expected)
    orthonormal = torch.eye(5, dtype=torch.float64)
    assert run(orthonormal, orthonormal, mining=mining).loss.item() == 0
    shuffled = run(orthonormal, orthonormal.roll(1, 0), mining="hardest").loss.item()
    assert shuffled == pytest.approx(1 + MARGIN)


@every_mining
def test_it_is_blind_to_the_order_of_pairs_and_to_which_side_is_which(mining: str):
    image, text = pairs()
    expected = run(image, text, mining=mining).loss.item()
    order = torch.randperm(ROWS)
    for others in ((text, image), (image[order], text[order])):
        assert run(*others, mining=mining).loss.item() == pytest.approx(expected, rel=1e-12)


@every_mining
def test_autocast_changes_nothing(mining: str):
    image, text = (side.detach().float() for side in pairs())
    expected = run(image, text, labels(), mining=mining).loss
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(run(image, text, labels(), mining=mining).loss, expected)


def test_harder_mining_never_costs_less():
    for seed in range(5):
        image, text = pairs(seed=seed)
        hardest, semi_hard = (run(image, text, mining=mining).loss.item() for mining in ("hardest", "semi_hard"))
        assert hardest >= semi_hard


def test_rows_whose_every_mismatch_is_a_duplicate_have_no_term():
    image, text = pairs(4)
    alike = PairLabels(*(torch.ones(4, 1, dtype=torch.int64) for _ in range(2)))
    for mining in MINING:
        found = run(image, text, alike, mining=mining).loss
        assert found.item() == 0
        assert all(not gradient.any() for gradient in torch.autograd.grad(found, (image, text)))


def test_what_is_missing_or_does_not_fit_is_refused_by_name():
    with pytest.raises(UserError, match="global batch of at least 2 pairs, got 1"):
        run(*pairs(1))
    outputs = TowerOutput(*pairs(), torch.ones(1, dtype=torch.float64), None)
    with pytest.raises(UserError, match=r"expected ObjectiveContext\(labels="):
        TripletConfig().build()(outputs, ObjectiveContext(step=0, samples_seen=0))
    for margin, mining in itertools.product((0.0, 2.5), MINING):
        with pytest.raises(ValueError, match=rf"objective\.margin={margin}"):
            TripletConfig(margin=margin, mining=mining)
