"""The towers that teach: how they follow, what they see, what a checkpoint keeps of them."""

from copy import deepcopy

import pytest
import torch

from mmclip.batch import DataPosition, ImageTextBatch
from mmclip.objectives.base import MomentumNeed, ObjectiveNeeds, ViewNeed
from mmclip.release import create
from mmclip.towers.architecture import ModelConfig
from mmclip.towers.two_tower import TwoTower
from mmclip.training.momentum import MomentumTowers, part_of

MODEL = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 16, "layers": 1, "head_width": 16},
    "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 1, "layers": 1},
}
VIEW = ViewNeed("a", copies=2, masked=0.5, noise=0.2, tokens=True)
ON, OFF = torch.tensor(0.0), torch.tensor(1.0)


def towers() -> TwoTower:
    torch.manual_seed(0)
    return create(ModelConfig(inline=MODEL), needs_logit_bias=False).double()


def needs(momentum: float = 0.9, pairs: bool = False, end: float | None = None) -> ObjectiveNeeds:
    need = MomentumNeed(momentum, momentum if end is None else end, views=("a",), pairs=pairs)
    return ObjectiveNeeds(views=(VIEW, ViewNeed("b")), momentum=need)


def teacher(of: TwoTower, need: ObjectiveNeeds) -> MomentumTowers:
    return MomentumTowers(of, need, {"a": (0, 1), "b": (2,)}, "fp64")


def batch(count: int = 4) -> ImageTextBatch:
    drawn = torch.Generator().manual_seed(1)
    pictures = [torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=drawn) for _ in range(4)]
    return ImageTextBatch(
        images=pictures[0],
        tokens=torch.ones(count, 8, dtype=torch.int64),
        keys=torch.arange(count),
        ids=tuple(map(str, range(count))),
        position=DataPosition(count),
        views=tuple(pictures[1:]),
    )


@torch.no_grad()
def changed(of: TwoTower) -> TwoTower:
    for weight in of.parameters():
        weight.add_(1.0)
    return of


def test_the_distance_to_resting_weights_shrinks_by_the_momentum_at_each_step():
    trained = towers()
    following = teacher(trained, needs(0.9))
    start = {name: tensor.clone() for name, tensor in following.state().items()}
    changed(trained)
    for _ in range(7):
        following.update(trained, 0.0, ON)
    for name, tensor in following.state().items():
        torch.testing.assert_close(tensor - start[name], torch.full_like(tensor, 1 - 0.9**7), rtol=1e-10, atol=1e-10)


def test_the_momentum_goes_by_a_cosine_from_its_start_to_its_end():
    need = MomentumNeed(0.996, 1.0)
    assert [need.at(share) for share in (0.0, 0.5, 1.0)] == pytest.approx([0.996, 0.998, 1.0])
    assert MomentumNeed(0.99, 0.99).at(0.3) == pytest.approx(0.99)


def test_a_skipped_step_moves_nothing_and_a_teacher_that_does_not_teach_yet_is_a_copy():
    trained = towers()
    following = teacher(trained, needs(0.9))
    before = {name: tensor.clone() for name, tensor in following.state().items()}
    changed(trained)
    following.update(trained, 0.0, OFF)
    assert all(torch.equal(tensor, before[name]) for name, tensor in following.state().items())
    following.update(trained, 0.0, ON, teaches=False)
    weights = trained.backbone.state_dict()
    for name, tensor in following.state().items():
        torch.testing.assert_close(tensor, weights[name], rtol=1e-15, atol=1e-15)


def test_it_sees_whole_pictures_without_noise_and_no_gradient_reaches_it():
    trained = towers()
    found = teacher(trained, needs())(batch(), 1)
    assert set(found.views) == {"a"}
    assert found.image_embed.shape == (4, 0)
    for copy in range(2):
        clean = trained.spec.normalise(batch().views[copy], torch.float64)
        expected = trained.eval().encode_view(clean, tokens=True)
        view = found.views["a"][copy]
        torch.testing.assert_close(view.pooled, expected.pooled, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(view.tokens, expected.tokens, rtol=1e-12, atol=1e-12)
        assert view.kept is None
        assert not view.pooled.requires_grad


def test_it_encodes_the_last_copies_alone_where_no_more_are_asked_for():
    trained = towers()
    half = ObjectiveNeeds(views=(ViewNeed("a", copies=2, learning=1, teaching=1),), momentum=needs().momentum)
    (answer,) = teacher(trained, half)(batch(), 1).views["a"]
    (_, both) = teacher(trained, needs())(batch(), 1).views["a"]
    torch.testing.assert_close(answer.pooled, both.pooled, rtol=1e-12, atol=1e-12)


def test_a_batch_in_parts_and_a_part_of_the_whole_are_the_same_rows():
    following = teacher(towers(), needs(pairs=True))
    whole, parts = following(batch(), 1), following(batch(), 2)
    for name, rows in whole.rows().items():
        torch.testing.assert_close(parts.rows()[name], rows, rtol=1e-12, atol=1e-12)
    tokens = whole.views["a"][1].tokens
    assert tokens is not None
    torch.testing.assert_close(parts.views["a"][1].tokens, tokens, rtol=1e-12, atol=1e-12)
    cut = part_of(whole, slice(1, 3))
    assert torch.equal(cut.text_embed, whole.text_embed[1:3])
    assert torch.equal(cut.views["a"][1].tokens, tokens[1:3])  # pyright: ignore[reportArgumentType]


def test_it_keeps_and_moves_the_towers_that_it_runs():
    alone, both = teacher(towers(), needs()), teacher(towers(), needs(pairs=True))
    assert set(alone.state()) == {name for name in both.state() if name.startswith("visual.")}
    assert set(both.state()) == set(dict(towers().backbone.state_dict()))


def test_it_is_no_part_of_what_it_follows():
    trained = towers()
    following = teacher(trained, needs())
    before = deepcopy(trained.state_dict())
    with torch.no_grad():
        for tensor in following.state().values():
            tensor.zero_()
    assert all(torch.equal(tensor, before[name]) for name, tensor in trained.state_dict().items())
