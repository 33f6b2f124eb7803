import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from mmclip_eval.probes import logistic, tip_adapter
from mmclip_eval.probes.drawing import draw_shots, hold_out
from mmclip_eval.probes.logistic import Examples, choose_strength, fit_probe
from mmclip_eval.probes.tip_adapter import TipAdapter


def clusters(examples=120, classes=4, noise=0.8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(examples) % classes
    centres = torch.randn(classes, 6, generator=torch.Generator().manual_seed(99))
    embed = centres[labels] + noise * torch.randn(examples, 6, generator=generator)
    return Examples(F.normalize(embed, dim=1), labels)


@pytest.mark.parametrize("classes", [2, 4])
def test_scores_are_the_decisions_of_scikit_learn(classes):
    train, test = clusters(classes=classes), clusters(classes=classes, seed=1)
    oracle = LogisticRegression(C=3.0, max_iter=1000).fit(train.embed.double(), train.labels)
    scores = fit_probe(train, classes, strength=3.0).scores(test.embed)
    assert scores.softmax(dim=1).numpy() == pytest.approx(oracle.predict_proba(test.embed.double()), abs=1e-12)


def test_a_class_that_the_probe_never_saw_is_never_answered():
    train = clusters(classes=3)
    probe = fit_probe(train, classes=5, strength=1.0)
    scores = probe.scores(train.embed)
    assert bool(torch.isfinite(scores).all())
    assert int(scores.argmax(dim=1).max()) == 2
    assert bool((scores[:, 3:] < scores[:, :3].min()).all())
    assert fit_probe(train.at((train.labels == 1).nonzero()[:, 0]), 3, 1.0).scores(train.embed).argmax(1).unique() == 1


def test_the_number_of_threads_that_the_process_has_moves_no_digit():
    train = clusters(examples=600, noise=2.0)
    found = []
    for threads in (1, 2):
        with threadpool_limits(threads):
            found.append(fit_probe(train, 4, strength=10.0).weight)
    assert torch.equal(*found)


def test_a_solver_that_was_cut_short_says_so_and_warns_nobody(monkeypatch):
    monkeypatch.setattr(logistic, "MAX_ITERATIONS", 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not fit_probe(clusters(), 4, strength=1e4).converged
    monkeypatch.undo()
    assert fit_probe(clusters(), 4, strength=1.0).converged


def test_the_chosen_strength_is_the_best_of_those_tried_and_no_neighbour_is_better():
    fit, held_out = clusters(examples=40, noise=1.5), clusters(examples=200, noise=1.5, seed=2)
    strength, tried = choose_strength(fit, held_out, classes=4)

    def figure(value):
        oracle = LogisticRegression(C=value, max_iter=1000).fit(fit.embed.double(), fit.labels)
        probabilities = oracle.predict_proba(held_out.embed.double())
        loss = -np.log(probabilities[np.arange(200), held_out.labels.numpy()]).mean()
        return (probabilities.argmax(axis=1) == held_out.labels.numpy()).mean(), -loss

    steps = {round(8 * np.log10(one.strength)) for one in tried}
    assert steps >= {8 * exponent for exponent in (-6, -4, -2, 0, 2, 4, 6)}
    for one in tried:
        assert (one.accuracy, -one.loss) == pytest.approx(figure(one.strength), abs=1e-6)
        assert figure(one.strength) <= figure(strength)
    best = round(8 * np.log10(strength))
    assert {best - 1, best + 1} <= steps
    assert len(steps) == len(tried) <= 15


def test_shots_are_that_many_of_each_class_and_nested():
    labels = torch.tensor([0, 1, 1, 0, 2, 2, 1, 0, 2, 1])
    drawn = {shots: draw_shots(labels, shots, seed=3).tolist() for shots in (1, 2, 3)}
    for shots, indices in drawn.items():
        assert torch.bincount(labels[indices]).tolist() == [shots] * 3
    assert set(drawn[1]) < set(drawn[2]) < set(drawn[3])
    assert any(draw_shots(labels, 1, seed).tolist() != drawn[1] for seed in range(5))
    with pytest.raises(ValueError, match="class 0 has 3 examples: expected at least 4"):
        draw_shots(labels, 4, seed=0)


def test_every_example_of_a_class_is_drawn_equally_often():
    labels = torch.tensor([0, 1, 0, 1, 0])
    counts = torch.zeros(5)
    for seed in range(600):
        counts[draw_shots(labels, 1, seed)] += 1
    assert (counts / 600).tolist() == pytest.approx([1 / 3, 1 / 2, 1 / 3, 1 / 2, 1 / 3], abs=0.07)


def test_what_is_held_out_is_a_share_of_each_class_and_leaves_one_of_each():
    examples = Examples(torch.arange(14).float()[:, None], torch.tensor([0] * 10 + [1] * 3 + [2]))
    rest, held_out = hold_out(examples, 0.2, seed=0)
    assert torch.bincount(held_out.labels, minlength=3).tolist() == [2, 1, 0]
    assert torch.bincount(rest.labels, minlength=3).tolist() == [8, 2, 1]
    assert sorted([*rest.embed[:, 0].tolist(), *held_out.embed[:, 0].tolist()]) == list(range(14))
    with pytest.raises(ValueError, match="no class has two"):
        hold_out(examples.at(torch.tensor([0, 10])), 0.2, seed=0)


@pytest.fixture
def adapter():
    return TipAdapter(F.normalize(torch.randn(4, 6, generator=torch.Generator().manual_seed(3)), dim=1), clusters(16))


def test_scores_of_the_adapter_are_equation_4_written_out(adapter):
    embed = clusters(20, seed=5).embed
    values = np.eye(4)[adapter.cache.labels.numpy()]
    affinity = embed.double().numpy() @ adapter.cache.embed.double().numpy().T
    expected = 1.5 * np.exp(-5.5 * (1 - affinity)) @ values
    expected += 100 * embed.double().numpy() @ adapter.class_embed.double().numpy().T
    assert adapter.scores(embed, alpha=1.5, beta=5.5).numpy() == pytest.approx(expected, abs=1e-9)


def test_any_block_gives_the_same_scores(adapter, monkeypatch):
    embed = torch.eye(6)
    cache = Examples(torch.eye(6)[:4], torch.arange(4))
    adapter = TipAdapter(torch.eye(6)[:4], cache)
    whole = adapter.scores(embed, 1.0, 1.0)
    monkeypatch.setattr(tip_adapter, "BLOCK_ELEMENTS", 9)
    assert torch.equal(adapter.scores(embed, 1.0, 1.0), whole)


def test_the_search_finds_the_best_pair_of_the_grid(adapter):
    held_out, alphas, betas = clusters(80, seed=6), (0.5, 10.0, 60.0), (0.5, 3.0, 9.0)

    def accuracy(alpha, beta):
        return float((adapter.scores(held_out.embed, alpha, beta).argmax(dim=1) == held_out.labels).float().mean())

    chosen = adapter.search(held_out, alphas, betas)
    best = max(accuracy(alpha, beta) for alpha in alphas for beta in betas)
    assert accuracy(*chosen) == best > accuracy(0.0, 1.0)
