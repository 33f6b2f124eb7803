"""Each measure equals a public implementation, and changes with what it should see and with nothing else."""

import numpy as np
import pytest
import torch
from cka import cka_from_features
from scipy.linalg import inv, sqrtm, subspace_angles
from scipy.spatial import procrustes
from scipy.spatial.distance import pdist
from scipy.stats import ortho_group, pearsonr, rankdata, spearmanr
from sklearn.cross_decomposition import CCA
from sklearn.neighbors import NearestNeighbors

from mmclip.errors import UserError
from mmclip_eval.compare.representation import cka as cka_module
from mmclip_eval.compare.representation.cca import canonical_correlations, mean_cca, pwcca, svcca
from mmclip_eval.compare.representation.cka import linear_cka
from mmclip_eval.compare.representation.cka_matrix import cka_matrix
from mmclip_eval.compare.representation.neighbours import mutual_neighbours
from mmclip_eval.compare.representation.pair import NoFigure, Pair
from mmclip_eval.compare.representation.procrustes import procrustes_distance, procrustes_similarity
from mmclip_eval.compare.representation.rsa import ranks, rsa

ROWS = 120
ALL = {
    "cka": linear_cka,
    "biased cka": lambda x, y: linear_cka(x, y, debiased=False),
    "procrustes": procrustes_similarity,
    "neighbours": mutual_neighbours,
    "rsa": rsa,
    "rsa (pearson)": lambda x, y: rsa(x, y, "pearson"),
    "cca": mean_cca,
    "svcca": svcca,
    "pwcca": pwcca,
}
LINEAR = ("cca",)
"""Blind to any invertible map of either side."""
ROTATED = ("cka", "biased cka", "procrustes", "rsa", "rsa (pearson)", "cca", "svcca")
"""Blind to rotation and scale of either side, and to a shift."""


def features(seed: int = 0, rows: int = ROWS, widths: tuple[int, int] = (12, 9)) -> tuple[np.ndarray, np.ndarray]:
    """Two noisy maps of what both see."""
    draw = np.random.default_rng(seed)
    seen = draw.normal(size=(rows, 6))
    x, y = (
        seen @ draw.normal(size=(6, width)) + draw.normal(size=(rows, width)) + draw.normal(size=width)
        for width in widths
    )
    return x, y


def rotation(width: int, seed: int = 3) -> np.ndarray:
    return ortho_group.rvs(width, random_state=seed)


def gram_cka(x: np.ndarray, y: np.ndarray, debiased: bool) -> float:
    """By the definitions, entry by entry: Kornblith et al. 2019, equation 3, and Song et al. 2012, equation 5."""

    def hsic(one: np.ndarray, other: np.ndarray) -> float:
        n, ones = len(one), np.ones(len(one))
        if not debiased:
            centre = np.eye(n) - 1 / n
            return np.trace(one @ centre @ other @ centre)
        one, other = one - np.diag(np.diag(one)), other - np.diag(np.diag(other))
        sums = (ones @ one @ ones) * (ones @ other @ ones) / ((n - 1) * (n - 2))
        return (np.trace(one @ other) + sums - 2 / (n - 2) * (ones @ one @ other @ ones)) / (n * (n - 3))

    kernel, other = x @ x.T, y @ y.T
    return hsic(kernel, other) / np.sqrt(hsic(kernel, kernel) * hsic(other, other))


@pytest.mark.parametrize("debiased", [True, False])
@pytest.mark.parametrize("widths", [(12, 9), (300, 9), (300, 200)])
def test_cka_is_its_definition_over_rows_and_over_widths(widths: tuple[int, int], debiased: bool):
    x, y = features(widths=widths)
    expected = gram_cka(x, y, debiased)
    assert linear_cka(x, y, debiased) == pytest.approx(expected, abs=1e-9)
    pair = Pair(x, y)
    assert cka_module._over_rows(pair) == pytest.approx(cka_module._over_widths(pair), rel=1e-9)


@pytest.mark.parametrize("widths", [(12, 9), (300, 200)])
def test_cka_is_that_of_pytorch_cka(widths: tuple[int, int]):
    x, y = features(widths=widths)
    expected = cka_from_features(torch.from_numpy(x), torch.from_numpy(y))
    assert linear_cka(x, y) == pytest.approx(float(expected), abs=1e-6)


def test_the_matrix_of_layers_holds_the_figure_of_each_pair():
    (a, b), (c, d) = features(), features(1, widths=(150, 12))
    found = cka_matrix([a, c, np.ones((ROWS, 4))], [b, d])
    assert found[:2] == pytest.approx(np.array([[linear_cka(x, y) for y in (b, d)] for x in (a, c)]), abs=1e-9)
    assert np.isnan(found[2]).all()


@pytest.mark.parametrize("widths", [(12, 12), (9, 12)])
def test_procrustes_is_that_of_scipy(widths: tuple[int, int]):
    x, y = features(widths=widths)
    wide = np.pad(x, ((0, 0), (0, widths[1] - widths[0])))  # scipy wants equal widths
    _, _, disparity = procrustes(wide, y)
    similarity = procrustes_similarity(x, y)
    assert 1 - similarity**2 == pytest.approx(disparity, abs=1e-9)
    assert procrustes_distance(x, y) == pytest.approx(np.sqrt(2 - 2 * similarity), abs=1e-9)


def test_the_distance_is_that_to_the_best_rotation():
    x, y = (part - part.mean(0) for part in features(widths=(5, 5)))
    x, y = x / np.linalg.norm(x), y / np.linalg.norm(y)
    left, _, right = np.linalg.svd(x.T @ y)
    best = np.linalg.norm(x @ left @ right - y)
    assert procrustes_distance(x, y) == pytest.approx(best)
    assert all(best <= np.linalg.norm(x @ rotation(5, seed) - y) for seed in range(20))


def test_canonical_correlations_are_those_of_scikit_learn_and_scipy():
    x, y = features(rows=300, widths=(6, 4))
    found = canonical_correlations(x, y)
    fitted = CCA(n_components=4, max_iter=100_000, tol=1e-15).fit(x, y)
    pairs = zip(*(side.T for side in fitted.transform(x, y)), strict=True)
    assert found == pytest.approx([np.corrcoef(u, v)[0, 1] for u, v in pairs], abs=1e-6)
    angles = subspace_angles(x - x.mean(0), y - y.mean(0))
    assert found == pytest.approx(np.sort(np.cos(angles))[::-1], abs=1e-6)
    assert mean_cca(x, y) == pytest.approx(np.cos(angles).mean(), abs=1e-6)


def test_a_layer_of_fewer_directions_than_units_counts_its_directions():
    x, y = features()
    doubled = np.concatenate([x, x @ np.random.default_rng(5).normal(size=(12, 30))], axis=1)
    assert canonical_correlations(doubled, y) == pytest.approx(canonical_correlations(x, y), abs=1e-6)


def test_svcca_is_the_mean_over_the_directions_of_most_variance():
    x, y = (part * np.logspace(0, -3, part.shape[1]) for part in features())

    def strongest(rows: np.ndarray) -> np.ndarray:
        left, singular, _ = np.linalg.svd(rows - rows.mean(0), full_matrices=False)
        count = next(k for k in range(1, 99) if (singular[:k] ** 2).sum() >= 0.99 * (singular**2).sum())
        assert 1 < count < rows.shape[1]
        return left[:, :count] * singular[:count]

    angles = subspace_angles(strongest(x), strongest(y))
    assert svcca(x, y) == pytest.approx(np.cos(angles).mean(), abs=1e-6)


def test_pwcca_is_the_published_recipe():
    """By roots of covariances, as the authors' code goes (google/svcca)."""
    x, y = features()
    x, y = x - x.mean(0), y - y.mean(0)
    root_x, root_y = inv(sqrtm(x.T @ x)), inv(sqrtm(y.T @ y))
    left, correlations, _ = np.linalg.svd(root_x @ x.T @ y @ root_y, full_matrices=False)
    variates = x @ root_x @ left
    weights = np.abs(variates.T @ x).sum(axis=1)
    assert pwcca(x, y) == pytest.approx((weights * correlations).sum() / weights.sum(), abs=1e-6)


def test_shared_neighbours_are_those_that_scikit_learn_finds():
    x, y = features()

    def nearest(rows: np.ndarray) -> list[set[int]]:
        found = NearestNeighbors(n_neighbors=11, metric="cosine").fit(rows).kneighbors(rows, return_distance=False)
        return [set(map(int, near[near != row][:10])) for row, near in enumerate(found)]

    shared = [len(one & other) / 10 for one, other in zip(nearest(x), nearest(y), strict=True)]
    assert mutual_neighbours(x, y) == pytest.approx(np.mean(shared))


def test_rsa_is_the_correlation_of_scipys_distances():
    x, y = features()
    first, second = (pdist(part - part.mean(0), "cosine") for part in (x, y))
    assert rsa(x, y) == pytest.approx(spearmanr(first, second)[0], abs=1e-6)
    assert rsa(x, y, "pearson") == pytest.approx(pearsonr(first, second)[0], abs=1e-6)


def test_equal_values_share_their_ranks():
    values = np.array([3.0, 1.0, 2.0, 1.0, 1.0, 3.0])
    assert ranks(values) == pytest.approx(rankdata(values))


@pytest.mark.parametrize("name", ALL)
def test_the_same_features_are_as_alike_as_can_be(name: str):
    x, _ = features()
    assert ALL[name](x, x) == pytest.approx(1)
    assert ALL[name](x, 3 * x) == pytest.approx(1)
    assert ALL[name](x, x) <= 1


@pytest.mark.parametrize("name", ALL)
def test_more_noise_is_less_alike(name: str):
    draw = np.random.default_rng(4)
    x = draw.normal(size=(400, 10))
    noise = draw.normal(size=(400, 10))
    found = [ALL[name](x, x + scale * noise) for scale in (0, 0.3, 1, 3)]
    assert all(before > after for before, after in zip(found, found[1:], strict=False)), found


@pytest.mark.parametrize("name", ROTATED)
def test_rotation_scale_and_shift_of_either_side_change_nothing(name: str):
    x, y = features()
    before = ALL[name](x, y)
    turned = 7 * x @ rotation(12) + 5
    assert ALL[name](turned, y) == pytest.approx(before, abs=1e-9)
    assert ALL[name](x, 0.1 * y @ rotation(9) - 2) == pytest.approx(before, abs=1e-9)


def test_neighbours_by_cosine_stay_under_rotation_and_scale_but_not_under_a_shift():
    x, y = features()
    before = mutual_neighbours(x, y)
    assert mutual_neighbours(7 * x @ rotation(12), y) == pytest.approx(before)
    assert mutual_neighbours(x + 5, y) != pytest.approx(before)


@pytest.mark.parametrize("name", ALL)
def test_an_invertible_map_changes_what_is_not_blind_to_it(name: str):
    x, y = features()
    mapped = x @ np.random.default_rng(8).normal(size=(12, 12))
    is_same = ALL[name](mapped, y) == pytest.approx(ALL[name](x, y), abs=1e-6)
    assert is_same == (name in LINEAR)


def test_an_invertible_map_of_the_second_side_leaves_pwcca():
    x, y = features()
    mapped = y @ np.random.default_rng(8).normal(size=(9, 9))
    assert pwcca(x, mapped) == pytest.approx(pwcca(x, y), abs=1e-6)
    assert pwcca(x, x @ np.random.default_rng(8).normal(size=(12, 12))) == pytest.approx(1)


def test_independent_features_are_alike_to_the_biased_estimate_alone():
    draws = [np.random.default_rng(seed).normal(size=(2, 200, 200)) for seed in range(10)]
    debiased, biased = (np.mean([linear_cka(x, y, kind) for x, y in draws]) for kind in (True, False))
    assert abs(debiased) < 0.005
    assert biased > 0.45


def test_independent_features_share_neighbours_by_chance():
    found = [mutual_neighbours(*np.random.default_rng(seed).normal(size=(2, 201, 30))) for seed in range(10)]
    assert np.mean(found) == pytest.approx(10 / 200, abs=0.006)


def test_rows_that_tie_share_the_last_places_whatever_their_order():
    x, y = features(rows=60)
    x = np.concatenate([x, np.repeat(x[:1], 20, axis=0)])  # 21 equal rows
    y = np.concatenate([y, y[:20]])
    before, order = mutual_neighbours(x, y), np.random.default_rng(2).permutation(80)
    assert mutual_neighbours(x[order], y[order]) == pytest.approx(before)
    assert mutual_neighbours(x, x) == pytest.approx(1)


@pytest.mark.parametrize("name", ALL)
def test_features_that_cannot_be_compared_are_refused(name: str):
    x, y = features()
    with pytest.raises(UserError, match="features of 120 and of 119 rows: both models need the same examples"):
        ALL[name](x, y[1:])
    with pytest.raises(UserError, match="19 rows are too few"):
        ALL[name](x[:19], y[:19])
    y[7, 2] = np.nan
    with pytest.raises(UserError, match=r"second model are not finite in 1 of 120 rows \(the first is row 7\)"):
        ALL[name](x, y)


@pytest.mark.parametrize("name", sorted(set(ALL) - {"neighbours"}))
def test_a_layer_that_has_collapsed_has_no_figure(name: str):
    x, _ = features()
    with pytest.raises(NoFigure, match="collapsed"):
        ALL[name](x, np.ones((ROWS, 4)))


@pytest.mark.parametrize("measure", [mean_cca, pwcca, canonical_correlations])
def test_fewer_rows_than_directions_have_no_canonical_correlations(measure):
    x, y = features(rows=60, widths=(40, 30))
    with pytest.raises(NoFigure, match="60 rows are too few for 40 and 30 directions"):
        measure(x, y)
