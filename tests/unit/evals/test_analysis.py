"""The report's analyses against oracles that share no code with them: double loops, numpy, closed forms."""

import math

import numpy as np
import pytest
import torch

from mmclip_eval.analysis import similarity
from mmclip_eval.analysis.confusions import category_of_class, confusion_matrix, worst_pairs
from mmclip_eval.analysis.embedding_map import map_embeddings, map_gap, principal_components, spread_out
from mmclip_eval.analysis.predictions import best_of_gallery, confident_mistakes, predict
from mmclip_eval.analysis.sampling import draw
from mmclip_eval.analysis.similarity import SimilarityCounts, count_similarities
from mmclip_eval.groups import Groups, group_by_name


def directions(rows: int, width: int = 16, seed: int = 0) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)), dim=1)


def test_predictions_are_those_of_the_whole_softmax(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("mmclip_eval.analysis.predictions.BLOCK", 50)  # several blocks of a few rows
    images, classes = directions(23), directions(11, seed=1)
    found = predict(images, classes, logit_scale=20.0, k=5)
    for row in range(23):
        cosines = [sum(float(a) * float(b) for a, b in zip(images[row], c, strict=True)) for c in classes]
        total = sum(math.exp(20 * cosine) for cosine in cosines)
        order = sorted(range(11), key=lambda c: -cosines[c])[:5]
        assert found.classes[row].tolist() == order
        assert found.probabilities[row].tolist() == pytest.approx(
            [math.exp(20 * cosines[c]) / total for c in order], rel=1e-4
        )


def test_predictions_of_few_classes_hold_all_of_them():
    found = predict(directions(4), directions(3, seed=1), logit_scale=5.0)
    assert found.classes.shape == (4, 3)
    assert found.probabilities.sum(dim=1).tolist() == pytest.approx([1.0] * 4)


def test_the_best_of_a_gallery_are_found_block_by_block(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("mmclip_eval.analysis.predictions.BLOCK", 60)
    queries, gallery = directions(9), directions(31, seed=1)
    values, columns = best_of_gallery(queries, gallery, 6)
    every = queries.numpy() @ gallery.numpy().T
    assert columns.tolist() == np.argsort(-every, axis=1)[:, :6].tolist()
    assert values.numpy() == pytest.approx(-np.sort(-every, axis=1)[:, :6], abs=1e-6)
    assert best_of_gallery(queries, gallery[:3], 6)[1].shape == (9, 3)


def test_confident_mistakes_are_wrong_and_the_surest_come_first():
    images, classes = directions(40), directions(8, seed=1)
    labels = torch.arange(40) % 8
    found = predict(images, classes, 30.0)
    wrong = [i for i in range(40) if int(found.classes[i, 0]) != int(labels[i])]
    expected = sorted(wrong, key=lambda i: -float(found.probabilities[i, 0]))[:5]
    assert confident_mistakes(found, labels, 5) == expected
    assert confident_mistakes(found, found.classes[:, 0], 5) == []


def test_confusions_between_categories_are_counted_by_the_category_of_most_pictures():
    # Class 0 has two pictures of animals and one of plants, so it is an animal; class 3 has no picture at all.
    labels = torch.tensor([0, 0, 0, 1, 1, 2])
    groups = Groups(("animal", "plant"), torch.tensor([0, 0, 1, 1, 1, 0]))
    said = torch.tensor([0, 1, 0, 1, 2, 3])
    assert category_of_class(labels, groups, 4).tolist() == [0, 1, 0, 2]
    matrix = confusion_matrix(labels, said, ["a", "b", "c", "d"], groups)
    assert matrix is not None
    assert matrix.names == ("animal", "plant", "no category")
    expected = [[0] * 3 for _ in range(3)]
    for sample, category in enumerate(groups.of_sample.tolist()):
        expected[category][{0: 0, 1: 1, 2: 0, 3: 2}[int(said[sample])]] += 1
    assert matrix.counts.tolist() == expected


def test_confusions_without_categories_are_between_classes_if_they_are_few():
    generator = torch.Generator().manual_seed(0)
    labels, said = (torch.randint(30, (500,), generator=generator) for _ in range(2))
    names = [f"class {i}" for i in range(30)]
    matrix = confusion_matrix(labels, said, names, None)
    assert matrix is not None
    for i in range(30):
        for j in range(30):
            pairs = zip(labels.tolist(), said.tolist(), strict=True)
            assert int(matrix.counts[i, j]) == sum(pair == (i, j) for pair in pairs)
    assert confusion_matrix(labels, said, [*names, "one too many"], None) is None


def test_worst_pairs_are_ordered_by_number_then_by_share_and_single_ones_are_left_out():
    #         three of four 0 -> 1; two of two 2 -> 0; two of three 1 -> 2; one of one 3 -> 0
    labels = torch.tensor([0, 0, 0, 0, 2, 2, 1, 1, 1, 3])
    said = torch.tensor([1, 1, 1, 0, 0, 0, 2, 2, 1, 0])
    found = worst_pairs(labels, said, ["a", "b", "c", "d"], 10)
    assert [(p.truth, p.taken_for, p.count, p.of) for p in found] == [
        ("a", "b", 3, 4),
        ("c", "a", 2, 2),
        ("b", "c", 2, 3),
    ]
    assert worst_pairs(labels, labels, ["a", "b", "c", "d"], 10) == []


def test_groups_are_sorted_by_name_and_keep_each_sample():
    groups = group_by_name(["b", "a", "b", "猫"])
    assert [groups.names[i] for i in groups.of_sample.tolist()] == ["b", "a", "b", "猫"]
    assert groups.names == ("a", "b", "猫")


def test_similarities_are_counted_as_numpy_counts_them(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(similarity, "BLOCK", 100)
    images, texts = directions(37), directions(12, seed=1)
    own_rows = torch.tensor([0, 0, 3, 5, 36])  # a picture with two texts, and most with none
    own_columns = torch.tensor([1, 2, 3, 3, 11])
    found = count_similarities(images, texts, own_rows, own_columns)
    every = (images @ texts.T).double().numpy()
    own = np.zeros(every.shape, dtype=bool)
    own[own_rows.numpy(), own_columns.numpy()] = True
    assert found.positive.sum() == 5
    assert found.negative.sum() == 37 * 12 - 5
    # Rounding may move a value over the edge of its bin, so the sums up to each edge are compared, not the bins.
    for counts, values in ((found.positive, every[own]), (found.negative, every[~own])):
        assert np.abs(np.cumsum(counts) - [(values < edge).sum() for edge in found.edges[1:]]).max() <= 1


def test_separation_is_the_share_of_pairs_of_pairs_in_the_right_order():
    rng = np.random.default_rng(0)
    positive, negative = rng.integers(0, 5, 40), rng.integers(0, 4, 60)
    wins = [1.0 if p > n else 0.5 if p == n else 0.0 for p in positive for n in negative]
    counts = SimilarityCounts(
        np.linspace(-1, 1, 6), np.bincount(positive, minlength=5), np.bincount(negative, minlength=5), 40
    )
    assert counts.separation == pytest.approx(sum(wins) / len(wins))


def test_coarse_bins_lose_no_pair():
    found = count_similarities(directions(50), directions(20, seed=1), torch.arange(50), torch.arange(50) % 20)
    coarse = found.coarse()
    assert (coarse.positive.sum(), coarse.negative.sum()) == (found.positive.sum(), found.negative.sum())
    assert len(coarse.positive) <= similarity.DRAWN_BINS + 1
    assert set(coarse.edges) <= set(found.edges)


def test_of_a_huge_set_a_fixed_draw_of_pictures_is_counted(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(similarity, "MOST_PAIRS", 100)
    images, texts = directions(60), directions(10, seed=1)
    found = count_similarities(images, texts, torch.arange(60), torch.arange(60) % 10)
    assert found.pictures == 10
    assert (found.positive.sum(), found.negative.sum()) == (10, 90)
    again = count_similarities(images, texts, torch.arange(60), torch.arange(60) % 10)
    assert again.positive.tolist() == found.positive.tolist()


def blobs(per: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    """Three tight clouds around three directions, and those directions as texts."""
    centres = torch.eye(12)[:3]
    cloud = centres.repeat_interleave(per, dim=0) + 0.05 * directions(3 * per, 12)
    return torch.nn.functional.normalize(cloud, dim=1), centres


def test_clusters_are_the_clouds_and_bear_the_names_nearest_to_them(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("mmclip_eval.analysis.embedding_map.MOST_CLUSTERS", 3)
    images, texts = blobs()
    found = map_embeddings(images, texts, ["cat", "dog", "猫 <b>"])
    assert found is not None
    truth = torch.tensor(found.samples) // 40
    pairs = {(int(cloud), int(cluster)) for cloud, cluster in zip(truth, found.cluster, strict=True)}
    assert len(pairs) == 3
    for cloud, cluster in pairs:
        assert found.names[cluster][0] == ["cat", "dog", "猫 <b>"][cloud]
        assert {int(truth[point]) for point in found.nearest[cluster]} == {cloud}
    again = map_embeddings(images, texts, ["cat", "dog", "猫 <b>"])
    assert again is not None
    assert torch.equal(again.points, found.points)
    assert again.names == found.names


def test_principal_components_are_those_of_the_singular_values():
    rows = np.random.default_rng(0).normal(size=(30, 5)) * [5, 3, 1, 0.5, 0.1]
    points, shares = principal_components(rows, 2)
    _, values, axes = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)
    assert np.abs(points) == pytest.approx(np.abs((rows - rows.mean(axis=0)) @ axes[:2].T))
    assert shares == pytest.approx(values[:2] ** 2 / (values**2).sum())


def test_a_collapsed_model_and_a_handful_of_pictures_have_no_map():
    assert map_embeddings(torch.ones(50, 8) / 8**0.5, directions(3, 8), ["a", "b", "c"]) is None
    assert map_embeddings(directions(3), directions(3, seed=1), ["a", "b", "c"]) is None


def test_equal_pictures_do_not_break_the_clusters():
    images = directions(2).repeat(20, 1)
    found = map_embeddings(images, directions(3, seed=1), ["a", "b", "c"])
    assert found is not None
    assert len(set(found.cluster.tolist())) == 2


def test_the_gap_is_the_distance_of_the_means():
    images, texts = directions(30), directions(50, seed=1) + 0.3
    found = map_gap(images, texts)
    means = [np.mean(np.asarray(rows), axis=0) for rows in (images, texts)]
    assert found.gap == pytest.approx(math.dist(*means), rel=1e-5)
    assert (found.images.shape, found.texts.shape) == ((30, 2), (50, 2))
    collapsed = map_gap(torch.ones(5, 4), torch.ones(5, 4))
    assert collapsed.gap == 0
    assert bool(torch.isfinite(collapsed.images).all())


def test_thumbnails_keep_their_distance():
    points = torch.rand(300, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([4.0, 1.0])
    chosen = spread_out(points, 0.1, 40)
    assert 10 < len(chosen) <= 40
    side = float((points.amax(0) - points.amin(0)).max())
    for a in chosen:
        for b in chosen:
            assert a == b or float((points[a] - points[b]).abs().max()) / side >= 0.1 - 1e-6
    assert spread_out(torch.zeros(5, 2), 0.1, 40) == [0]


def test_what_is_shown_is_drawn_by_a_fixed_seed():
    chosen = draw(24, 1000)
    assert chosen == draw(24, 1000)
    assert chosen == sorted(set(chosen))
    assert 0 <= chosen[0] <= chosen[-1] < 1000
    assert chosen != draw(24, 1000, stream=1)
    assert draw(24, 5) == [0, 1, 2, 3, 4]
    # Not the first ones, and from everywhere: of many draws each number comes about as often.
    counts = np.bincount([i for stream in range(400) for i in draw(5, 50, stream)], minlength=50)
    assert 15 < counts.min() <= counts.max() < 75
