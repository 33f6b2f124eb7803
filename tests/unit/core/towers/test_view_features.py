"""Further views through an image tower: pooled features, features of patches, small crops, masks and noise."""

from copy import deepcopy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmclip.batch import DataPosition, ImageTextBatch
from mmclip.errors import UserError
from mmclip.objectives.base import ViewNeed
from mmclip.release import create
from mmclip.towers.architecture import ModelConfig
from mmclip.towers.patches import kept_patches
from mmclip.towers.two_tower import TwoTower
from mmclip.training.views import encode_views, normalised, refuse_views

TEXT = {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 1, "layers": 1}
NATIVE = {"image_size": 32, "patch_size": 8, "width": 32, "layers": 2, "head_width": 16}
TOWERS = {
    "class token": NATIVE,
    "averaged": {**NATIVE, "pool_type": "avg"},
    "averaged before the norm": {**NATIVE, "pool_type": "avg", "final_ln_after_pool": True},
    "timm": {"timm_model_name": "test_vit", "timm_pool": "avg", "timm_proj": "linear", "image_size": 160},
    "timm without a projection": {
        "timm_model_name": "test_vit",
        "timm_pool": "token",
        "timm_proj": "",
        "image_size": 160,
    },
    "convolutional": {"timm_model_name": "test_resnet", "timm_pool": "avg", "timm_proj": "linear", "image_size": 64},
    "convolutional, mlp": {"timm_model_name": "test_resnet", "timm_pool": "avg", "timm_proj": "mlp", "image_size": 64},
    "attention pool": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None},
}
PATCHED = ("class token", "averaged", "averaged before the norm", "timm", "timm without a projection")


def towers_of(name: str) -> TwoTower:
    torch.manual_seed(3)
    table = {"embed_dim": 16, "vision_cfg": TOWERS[name], "text_cfg": TEXT}
    if name == "attention pool":
        table["embed_dim"] = 64
    return create(ModelConfig(inline=table), needs_logit_bias=False).double().eval()


def pixels(towers: TwoTower, side: int | None = None) -> Tensor:
    size = towers.spec.size if side is None else (side, side)
    return torch.randn(2, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", TOWERS)
def test_the_projection_of_the_pooled_features_is_the_embedding(name: str):
    towers = towers_of(name)
    given = pixels(towers)
    found = towers.encode_view(given, embeds=True)
    torch.testing.assert_close(found.embed, F.normalize(towers.encode_image(given), dim=-1), rtol=1e-12, atol=1e-12)
    assert found.pooled.shape == (2, towers.pooled_width)
    assert found.tokens is None


@pytest.mark.parametrize("name", PATCHED)
def test_features_of_patches_stand_row_by_row_and_pool_to_what_the_tower_pools(name: str):
    towers = towers_of(name)
    given = pixels(towers)
    found = towers.encode_view(given, tokens=True)
    grid, patch = towers.image_grid, towers.patch_size
    assert grid is not None
    assert patch is not None
    assert found.tokens is not None
    assert found.tokens.shape == (2, grid[0] * grid[1], towers.pooled_width)
    torch.testing.assert_close(found.pooled, towers.encode_view(given).pooled, rtol=1e-12, atol=1e-12)
    if name == "averaged":
        torch.testing.assert_close(found.tokens.mean(1), found.pooled, rtol=1e-12, atol=1e-12)
    changed = (
        given.clone()
    )  # one patch, of the second row: nothing moves its own features as much as another picture there
    changed[:, :, patch[0] : 2 * patch[0], : patch[1]] += 10.0
    moved = (towers.encode_view(changed, tokens=True).tokens - found.tokens).norm(dim=2)  # pyright: ignore[reportOptionalOperand]
    assert moved.argmax(dim=1).tolist() == [grid[1], grid[1]]


@pytest.mark.parametrize("name", PATCHED)
def test_a_small_crop_is_what_the_tower_resized_to_it_makes_and_its_positions_learn(name: str):
    towers = towers_of(name)
    assert towers.patch_size is not None
    side = 2 * towers.patch_size[0]
    resized = deepcopy(towers)
    resized.set_image_size(side)
    given = pixels(towers, side)
    found = towers.encode_view(given)
    # timm interpolates in single precision
    torch.testing.assert_close(found.pooled, resized.encode_view(given).pooled, rtol=1e-6, atol=1e-6)
    found.pooled[:, 0].sum().backward()  # the sum of normalised features is the same whatever the picture
    positions = next(p for n, p in towers.named_parameters() if "visual" in n and "pos" in n)
    assert positions.grad is not None
    assert positions.grad.abs().sum() > 0


@pytest.mark.parametrize("name", PATCHED)
def test_a_masked_view_reads_the_kept_patches_alone(name: str):
    towers = towers_of(name)
    assert towers.image_grid is not None
    assert towers.patch_size is not None
    rows, columns = towers.image_grid
    kept = kept_patches(torch.tensor([5, 6]), rows * columns, 0.75)
    given = pixels(towers)
    found = towers.encode_view(given, kept, tokens=True)
    assert found.tokens is not None
    assert found.tokens.shape == (2, kept.shape[1], towers.pooled_width)
    others = torch.full_like(given, 7.0)
    height, width = towers.patch_size
    for picture, numbers in enumerate(kept.tolist()):
        for number in numbers:
            row, column = divmod(number, columns)
            place = (slice(row * height, (row + 1) * height), slice(column * width, (column + 1) * width))
            others[picture, :, *place] = given[picture, :, *place]
    again = towers.encode_view(others, kept, tokens=True)
    assert torch.equal(again.pooled, found.pooled)
    every = torch.arange(rows * columns).expand(2, -1)
    whole = towers.encode_view(given, every).pooled
    torch.testing.assert_close(whole, towers.encode_view(given).pooled, rtol=1e-9, atol=1e-9)


def batch_of(count: int, views: int) -> ImageTextBatch:
    drawn = torch.Generator().manual_seed(2)
    pictures = [torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=drawn) for _ in range(views + 1)]
    return ImageTextBatch(
        images=pictures[0],
        tokens=torch.zeros(count, 8, dtype=torch.int64),
        keys=torch.arange(count) * 977,
        ids=tuple(map(str, range(count))),
        position=DataPosition(count),
        views=tuple(pictures[1:]),
    )


@pytest.mark.parametrize("corruption", [{"masked": 0.5}, {"noise": 0.3}, {"masked": 0.5, "noise": 0.3}, {}])
def test_a_view_in_pieces_is_corrupted_as_the_whole_batch_is_and_copies_are_not_alike(corruption: dict[str, Any]):
    towers = towers_of("class token")
    need, numbers = ViewNeed("a", copies=2, **corruption), {"a": (1, 2)}
    batch = batch_of(4, 3)
    batch = ImageTextBatch(**{**vars(batch), "views": (batch.views[0], batch.views[1], batch.views[1])})

    def found(part: ImageTextBatch) -> list[Tensor]:
        clean = normalised(towers, part, [need], numbers)
        return [view.pooled for view in encode_views(towers, part, [need], numbers, clean)["a"]]

    whole = found(batch)
    for copy, pieces in enumerate(zip(*map(found, batch.split(2)), strict=True)):
        torch.testing.assert_close(torch.cat(pieces), whole[copy], rtol=1e-12, atol=1e-12)
    assert torch.equal(whole[0], whole[1]) == (not corruption)  # the same pixels, each copy corrupted for itself


def test_the_tower_that_learns_encodes_the_first_copies_alone_where_no_more_are_asked_for():
    towers, batch, numbers = towers_of("class token"), batch_of(4, 3), {"a": (1, 2)}

    def found(need: ViewNeed) -> list[Tensor]:
        clean = normalised(towers, batch, [need], numbers)
        return [view.pooled for view in encode_views(towers, batch, [need], numbers, clean)["a"]]

    (asking,) = found(ViewNeed("a", copies=2, masked=0.5, learning=1))
    torch.testing.assert_close(asking, found(ViewNeed("a", copies=2, masked=0.5))[0], rtol=1e-12, atol=1e-12)
    with pytest.raises(UserError, match="view 'a': teaching=3: expected 1 to 2"):
        ViewNeed("a", copies=2, teaching=3)


def test_what_a_tower_cannot_make_of_a_view_is_refused_by_name():
    network, pooled = towers_of("convolutional"), towers_of("attention pool")
    with pytest.raises(
        UserError, match=r"view 'm' needs features of single patches: .*test_resnet|view 'm' needs features"
    ):
        refuse_views(network, [ViewNeed("m", tokens=True)])
    with pytest.raises(UserError, match=r"75% of the patches masked"):
        refuse_views(network, [ViewNeed("m", masked=0.75)])
    with pytest.raises(UserError, match=r"pictures of another size: .*ModifiedResNet"):
        refuse_views(pooled, [ViewNeed("local", style="local")])
    refuse_views(network, [ViewNeed("local", style="local")])
    refuse_views(towers_of("class token"), [ViewNeed("m", tokens=True, masked=0.5), ViewNeed("s", size=16)])
