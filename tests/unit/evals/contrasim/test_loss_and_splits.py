import math

import pytest
import torch
import torch.nn.functional as F
from pytorch_metric_learning.losses import SupConLoss

from mmclip.errors import UserError
from mmclip_eval.contrasim.encoder import Encoders
from mmclip_eval.contrasim.fit import fit_pairs
from mmclip_eval.contrasim.loss import supervised_contrastive
from mmclip_eval.contrasim.settings import ContraSimConfig
from mmclip_eval.contrasim.splits import split_models, split_rows

TAU = 0.07


def by_loops(similarity: torch.Tensor, labels: list[int]) -> float:
    terms = []
    for i, own in enumerate(labels):
        positives = [p for p, label in enumerate(labels) if label == own and p != i]
        if not positives:
            continue
        total = sum(math.exp(float(similarity[i, a]) / TAU) for a in range(len(labels)) if a != i)
        logs = [math.log(math.exp(float(similarity[i, p]) / TAU) / total) for p in positives]
        terms.append(-sum(logs) / len(positives))
    return sum(terms) / len(terms)


@pytest.fixture
def units() -> torch.Tensor:
    return F.normalize(torch.randn(8, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64), dim=1)


def test_the_loss_is_a_double_loop_over_units(units: torch.Tensor):
    labels = [0, 1, 2, 0, 1, 1, 3, 0]  # one of them alone in its label
    found = supervised_contrastive(units @ units.T, torch.tensor(labels), TAU)
    assert float(found) == pytest.approx(by_loops(units @ units.T, labels), rel=1e-12)


def test_the_loss_is_that_of_a_public_implementation(units: torch.Tensor):
    labels = torch.tensor([0, 1, 2, 0, 1, 1, 2, 0])
    found = supervised_contrastive(units @ units.T, labels, TAU)
    assert float(found) == pytest.approx(float(SupConLoss(temperature=TAU)(units, labels)), rel=1e-9)


def test_the_loss_of_equal_units_is_the_logarithm_of_the_candidates():
    same = torch.ones(6, 6)
    assert float(supervised_contrastive(same, torch.tensor([0, 0, 1, 1, 2, 2]), TAU)) == pytest.approx(math.log(5))


def test_the_gradient_of_the_loss_is_finite(units: torch.Tensor):
    units.requires_grad_()
    supervised_contrastive(units @ units.T, torch.tensor([0, 0, 1, 1, 2, 2, 3, 4]), TAU).backward()
    assert units.grad is not None
    assert units.grad.isfinite().all()


def test_rows_of_training_and_test_are_disjoint_and_all_drawn_ones():
    rows = split_rows(200, ContraSimConfig(test_share=0.25))
    assert (len(rows.train), len(rows.test)) == (150, 50)
    assert sorted([*rows.train.tolist(), *rows.test.tolist()]) == list(range(200))
    fewer = split_rows(200, ContraSimConfig(most_rows=90))
    assert len({*fewer.train.tolist(), *fewer.test.tolist()}) == 90


def test_another_seed_holds_out_other_rows():
    first, again, other = (split_rows(200, ContraSimConfig(seed=seed)).test.tolist() for seed in (0, 0, 1))
    assert first == again != other


@pytest.mark.parametrize("count", [5, 6, 7, 9])
def test_no_fold_tests_a_model_that_it_trains_on(count: int):
    folds = split_models(count, seed=3)
    assert len(folds) == (2 if count >= 6 else 1)
    for fold in folds:
        assert sorted([*fold.train, *fold.test]) == list(range(count))
        assert len(fold.train) >= 3
        assert len(fold.test) >= 2


def test_chosen_models_are_held_out():
    (fold,) = split_models(6, seed=0, held_out=(5, 0))
    assert fold.test == (5, 0)
    assert fold.train == (1, 2, 3, 4)


@pytest.mark.parametrize(("count", "held_out"), [(4, None), (5, (0, 1, 2)), (6, (2,)), (2, None)])
def test_too_few_models_are_told(count: int, held_out: tuple[int, ...] | None):
    with pytest.raises(UserError, match=rf"{count} models.*expected at least 3 and 2; add models"):
        split_models(count, 0, held_out)


def test_too_few_rows_are_told():
    with pytest.raises(UserError, match="30 examples, 10 of them held out: expected at least 20"):
        split_rows(30, ContraSimConfig())


def test_the_network_is_the_published_one_of_each_width():
    networks = Encoders((768, 32, 768), ContraSimConfig()).networks
    assert list(networks) == ["32", "768"]
    shapes = [tuple(weight.shape) for weight in networks["768"].parameters() if weight.ndim == 2]
    assert shapes == [(512, 768), (256, 512), (128, 256)]


def test_what_is_compared_has_length_1():
    encoded = Encoders((7,), ContraSimConfig())(torch.randn(3, 4, 7))
    assert torch.allclose(encoded.norm(dim=-1), torch.ones(3, 4))


def test_training_is_the_same_each_time_and_draws_nothing_from_others():
    left, right = torch.randn(2, 40, 6, generator=torch.Generator().manual_seed(0)).unbind()
    settings = ContraSimConfig(steps=5)
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    first = fit_pairs(left, right, settings).state_dict()
    assert torch.equal(torch.rand(3), expected)
    second = fit_pairs(left, right, settings).state_dict()
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    other = fit_pairs(left, right, ContraSimConfig(steps=5, seed=1)).state_dict()
    assert not any(torch.equal(tensor, other[name]) for name, tensor in first.items())
