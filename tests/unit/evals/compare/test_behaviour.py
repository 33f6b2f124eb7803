"""Two models on one set, against counts made by hand."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mmclip.errors import UserError
from mmclip_eval.compare.behaviour.behaviour import Behaviour, behaviour
from mmclip_eval.compare.behaviour.flips import flips
from mmclip_eval.compare.behaviour.retrieved import TOP, retrieved
from mmclip_eval.compare.behaviour.seen import Seen
from mmclip_eval.compare.behaviour.space import gap_of, space, stored

Says = Callable[..., Seen]


def wrong(truth: list[int], *samples: int) -> list[int]:
    """Answers that are right but for some samples, which go to the next class."""
    return [(label + 1) % 4 if number in samples else label for number, label in enumerate(truth)]


def test_flips_are_those_that_were_counted_by_hand(says: Says, truth: list[int]):
    """A is wrong of 0, 1, 2; B of 2, 3, 4, 5: it loses 3, 4, 5 and wins 0, 1; of 2 both say the same."""
    found = flips(says(wrong(truth, 0, 1, 2)), says(wrong(truth, 2, 3, 4, 5)))
    assert sorted(found.lost.tolist()) == [3, 4, 5]
    assert sorted(found.won.tolist()) == [0, 1]
    assert found.agreement.value == pytest.approx(35 / 40)
    assert found.negative.value == pytest.approx(3 / 40)
    assert found.positive.value == pytest.approx(2 / 40)
    assert found.accuracy.before == pytest.approx(37 / 40)
    assert found.accuracy.after == pytest.approx(36 / 40)
    assert found.accuracy.value == pytest.approx(-1 / 40)
    assert found.accuracy.low < -1 / 40 < found.accuracy.high
    assert found.moved == 0
    assert found.agreement.floor_from == "permuted pairs"


def test_both_wrong_in_their_own_way_has_moved(says: Says, truth: list[int]):
    other = [(label + 2) % 4 if number == 7 else label for number, label in enumerate(truth)]
    found = flips(says(wrong(truth, 7)), says(other))
    assert found.moved == 1
    assert len(found.lost) == len(found.won) == 0


def test_the_floor_of_agreement_is_that_of_permuted_answers(says: Says, truth: list[int]):
    a, b = says(wrong(truth, 0, 1, 2, 3)), says(wrong(truth, 9, 10))
    found = flips(a, b)
    generator = np.random.default_rng(0)
    ours, theirs = a.said, b.said
    drawn = [torch.from_numpy(generator.permutation(40)) for _ in range(3000)]
    agreed = np.mean([float((ours.predicted == theirs.predicted[order]).double().mean()) for order in drawn])
    lost = np.mean([float((ours.correct & ~theirs.correct[order]).double().mean()) for order in drawn])
    assert found.agreement.floor == pytest.approx(agreed, abs=0.005)
    assert found.negative.floor == pytest.approx(lost, abs=0.005)


def test_independent_models_are_the_floor_where_there_are_some(says: Says, truth: list[int]):
    a = says(truth)
    found = flips(a, says(wrong(truth, 0)), [says(wrong(truth, *range(10))), says(wrong(truth, *range(20)))])
    assert found.agreement.floor == pytest.approx((30 + 20) / 2 / 40)
    assert found.agreement.floor_from == "2 independent models"
    assert found.accuracy.floor == pytest.approx((10 + 20) / 2 / 40)
    alone = flips(a, says(wrong(truth, 0)), [says(wrong(truth, *range(10)))])
    assert alone.agreement.floor_from == "1 independent model"


def test_the_same_weights_are_at_the_ceiling(says: Says, truth: list[int]):
    a = says(wrong(truth, 0, 1, 2))
    found = behaviour(a, replace(a, name="b"))
    assert found.flips is not None
    assert found.confidence is not None
    assert found.flips.agreement.value == 1
    assert found.flips.agreement.position == 1
    assert (found.flips.negative.value, found.flips.negative.high) == (0, 0)
    assert found.flips.accuracy.value == found.flips.accuracy.low == found.flips.accuracy.high == 0
    assert found.confidence.error.value == found.confidence.error.low == found.confidence.error.high == 0
    for part in found.retrieved:
        assert part.overlap.value == part.overlap.position == 1
        assert part.recall.value == 0
        assert len(part.lost) == len(part.won) == 0
    assert found.space.gap.value == found.space.logit_scale.value == 0


def test_overlap_of_lists_is_that_of_a_double_loop(says: Says, truth: list[int], dataset):
    a, b = says(truth), says(wrong(truth, *range(12)))
    generator = torch.Generator().manual_seed(3)
    b = replace(b, image_embed=F.normalize(b.image_embed + 0.3 * torch.randn(40, 8, generator=generator), dim=-1))
    owner = dataset.captioned.image_of_caption.tolist()

    def best(seen: Seen, way: str) -> list[set[int]]:
        assert seen.caption_embed is not None
        scores = seen.image_embed @ seen.caption_embed.T
        scores = scores if way == "text" else scores.T
        return [set(row.argsort(descending=True)[:TOP].tolist()) for row in scores]

    for way in ("text", "image"):
        found = retrieved(way, a, b)
        expected = [len(x & y) / TOP for x, y in zip(best(a, way), best(b, way), strict=True)]
        assert found.overlap.value == pytest.approx(np.mean(expected))
        assert found.overlap.low < found.overlap.value < found.overlap.high
        assert found.overlap.floor < found.overlap.value
    first = retrieved("image", a, b)
    assert a.caption_embed is not None
    hits = [int((a.image_embed @ row).argmax()) == own for row, own in zip(a.caption_embed, owner, strict=True)]
    assert first.recall.before == pytest.approx(np.mean(hits))


def test_equal_captions_are_one_entry(says: Says, truth: list[int], dataset, monkeypatch: pytest.MonkeyPatch):
    """With 80 captions of which 40 are a repetition, ten places of a list hold ten texts."""
    part = dataset.captioned
    repeated = tuple(part.captions[2 * (number // 2)] for number in range(len(part.captions)))
    monkeypatch.setitem(dataset._parts, "captioned", replace(part, captions=repeated))
    a = says(truth)
    assert a.caption_embed is not None
    rows = a.caption_embed[torch.arange(80) // 2 * 2]
    a = replace(a, caption_embed=rows)
    found = retrieved("text", a, replace(a, name="b"))
    assert found.overlap.value == 1


def test_groups_that_lost_most_stand_first(says: Says, truth: list[int]):
    found = behaviour(says(truth), says(wrong(truth, 0, 1, 2, 30)))
    assert found.by_group is not None
    assert found.by_group.kind == "groups"
    assert [(row.name, row.samples) for row in found.by_group.rows] == [("indoors", 20), ("outdoors", 20)]
    assert [row.accuracy.value for row in found.by_group.rows] == pytest.approx([-3 / 20, -1 / 20])


def test_a_sharper_scale_moves_confidence_and_not_answers(says: Says, truth: list[int]):
    found = behaviour(says(wrong(truth, 1, 2)), says(wrong(truth, 1, 2), scale=1.0))
    assert found.flips is not None
    assert found.confidence is not None
    assert found.flips.agreement.value == 1
    assert found.confidence.mean.value < -0.1
    assert found.confidence.mean.low <= found.confidence.mean.value <= found.confidence.mean.high
    assert found.space.logit_scale.value == -9


def test_stored_embeddings_can_be_searched_only_in_their_own_space(says: Says, truth: list[int]):
    a = says(truth)
    same = stored(a, replace(a, name="b"))
    assert same is not None
    assert same.value == 1
    assert a.class_embed is not None
    turned = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(1))).Q
    b = replace(a, image_embed=a.image_embed @ turned, class_embed=a.class_embed @ turned)
    assert flips(a, b).agreement.value == 1, "a rotation changes no answer"
    other = stored(a, b)
    assert other is not None
    assert other.value < 0.7
    assert a.caption_embed is not None
    wide = replace(
        a,
        image_embed=F.pad(a.image_embed, (0, 2)),
        class_embed=F.pad(a.class_embed, (0, 2)),
        caption_embed=F.pad(a.caption_embed, (0, 2)),
    )
    assert stored(a, wide) is None


def test_the_gap_is_the_distance_of_the_means(says: Says, truth: list[int]):
    a = says(truth)
    assert a.caption_embed is not None
    expected = (a.image_embed.double().mean(0) - a.caption_embed.double().mean(0)).norm()
    assert gap_of(a) == pytest.approx(float(expected))
    found = space(a, says(wrong(truth, *range(20))))
    assert found.gap.low <= found.gap.value <= found.gap.high


def test_what_cannot_be_compared_is_refused(says: Says, truth: list[int], dataset):
    a = says(truth)
    with pytest.raises(UserError, match="neither classes with names nor captions"):
        behaviour(replace(a, class_embed=None, caption_embed=None), a)
    with pytest.raises(UserError, match="both have to see the same"):
        behaviour(a, replace(a, image_embed=a.image_embed[:-1]))
    few = replace(a, image_embed=a.image_embed[:5])
    with pytest.raises(UserError, match="5 samples; expected at least 20"):
        behaviour(few, few)


def test_a_set_of_captions_alone_has_no_classes(says: Says, truth: list[int]):
    a = replace(says(truth), class_embed=None)
    found: Behaviour = behaviour(a, replace(a, name="b"))
    assert found.flips is found.by_group is found.confidence is None
    assert len(found.retrieved) == 2
    assert found.space.stored is not None
