from itertools import combinations

import numpy as np
import pytest
import torch
from torch import nn

from mmclip.errors import UserError
from mmclip.ops.philox import ranks_of_keys
from mmclip.randomness import Stream, uniform_of_keys
from mmclip.towers.patches import gather_patches, kept_patches
from mmclip.towers.settings import TowersConfig
from mmclip.towers.two_tower import TwoTower


def keys_of(count: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 2**63 - 1, count, dtype=np.int64))


def test_device_draws_are_those_of_the_host():
    keys = torch.cat([keys_of(50), torch.tensor([0, 1, 2**63 - 1])])
    for count, view in ((1, 0), (7, 0), (196, 2)):
        drawn = ranks_of_keys(keys, Stream.PATCH_MASK, count, view)
        expected = uniform_of_keys(keys.numpy().astype(np.uint64), Stream.PATCH_MASK, count, view)
        assert np.array_equal(drawn.double().numpy() * 2.0**-53, expected)


def test_kept_patches_are_those_of_the_lowest_draws_in_ascending_order():
    keys = keys_of(20)
    draws = uniform_of_keys(keys.numpy().astype(np.uint64), Stream.PATCH_MASK, 49)
    assert kept_patches(keys, 49, 0.6).tolist() == [sorted(np.argsort(row)[:19].tolist()) for row in draws]


@pytest.mark.parametrize(("patches", "dropped", "kept"), [(49, 0.5, 24), (196, 0.75, 49), (4, 0.9, 1), (16, 0.0, 16)])
def test_as_many_are_kept_of_each_picture_as_open_clip_keeps(patches: int, dropped: float, kept: int):
    from open_clip.transformer import PatchDropout

    rows = kept_patches(keys_of(30), patches, dropped)
    assert rows.shape == (30, kept)
    assert all(len(set(row)) == kept for row in rows.tolist())
    assert PatchDropout(dropped)(torch.zeros(2, patches + 1, 1)).shape[1] == kept + 1


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_the_same_patches_are_kept_for_any_split_of_a_batch(ranks: int):
    keys = keys_of(12)
    parts = [kept_patches(part, 49, 0.5) for part in keys.chunk(ranks)]
    assert torch.equal(torch.cat(parts), kept_patches(keys, 49, 0.5))
    assert not torch.equal(kept_patches(keys, 49, 0.5), kept_patches(keys, 49, 0.5, view=1))


def test_every_pair_of_patches_is_kept_equally_often():
    from scipy.stats import chisquare

    kept = kept_patches(keys_of(30_000), 6, 0.5)
    names = {pair: place for place, pair in enumerate(combinations(range(6), 3))}
    counts = np.bincount([names[tuple(row)] for row in kept.tolist()], minlength=20)
    assert chisquare(counts).pvalue > 0.001  # of the 20 sets of three patches
    assert chisquare(np.bincount(kept.flatten(), minlength=6)).pvalue > 0.001


def test_pixels_are_those_that_a_loop_cuts_out():
    images = torch.arange(2 * 3 * 13 * 18).reshape(2, 3, 13, 18)  # a row and two columns belong to no whole patch
    kept = torch.tensor([[0, 5, 8], [1, 2, 11]])
    got = gather_patches(images, kept, (3, 4), (4, 4))
    for picture in range(2):
        for place, patch in enumerate(kept[picture]):
            row, column = divmod(int(patch), 4)
            expected = images[picture, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
            assert torch.equal(got[picture, place], expected)


class Kept(nn.Module):
    """Stands where stock towers drop patches, and keeps the given ones behind the class token."""

    def __init__(self, kept: torch.Tensor, prefix: int, with_indices: bool) -> None:
        super().__init__()
        self.kept, self.prefix, self.with_indices = kept, prefix, with_indices

    def forward(self, x: torch.Tensor):
        rows = torch.arange(len(x))[:, None]
        x = torch.cat([x[:, : self.prefix], x[rows, self.prefix + self.kept]], dim=1)
        return (x, self.kept) if self.with_indices else x


def timm(name: str, pool: str, **settings) -> dict:
    """A small model of one of timm's kinds, registered under a name of its own."""
    import timm
    from timm.models import register_model
    from timm.models._builder import build_model_with_cfg
    from timm.models.eva import Eva
    from timm.models.vision_transformer import VisionTransformer

    kind = Eva if name.startswith("eva") else VisionTransformer
    if not timm.is_model(name):

        def build(pretrained=False, **named):
            own = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, **settings}
            return build_model_with_cfg(kind, name, pretrained, **{**own, **named})

        build.__name__, build.__module__ = name, __name__
        register_model(build)
    proj = "none" if pool == "map" else "linear"
    return {"timm_model_name": name, "timm_pool": pool, "timm_proj": proj, "image_size": 32}


MAPPED = {"global_pool": "map", "class_token": False}
VISION = {
    "class token": lambda: {},
    "averaged (CLIPA)": lambda: {"pool_type": "avg", "final_ln_after_pool": True, "no_ln_pre": True},
    "norm of queries and keys": lambda: {"qk_norm": True},
    "timm, mapped (SigLIP)": lambda: timm("vit_mapped_tiny", "map", **MAPPED),
    "timm, class token apart from positions": lambda: timm(
        "vit_apart_tiny", "token", no_embed_class=True, pre_norm=True
    ),
    "timm, registers": lambda: timm("vit_registers_tiny", "token", reg_tokens=3),
    "EVA": lambda: timm("eva_tiny", "token"),
    "EVA, rotations (EVA02)": lambda: timm("eva_rope_tiny", "token", use_rot_pos_emb=True, swiglu_mlp=True),
    "EVA, rotations, mapped (PE)": lambda: timm("eva_pe_tiny", "map", use_rot_pos_emb=True, global_pool="map"),
}


@pytest.mark.parametrize("vision", VISION.values(), ids=VISION.keys())
def test_dropping_before_the_embedding_equals_dropping_after_it(vision, model_cfg, stock_of, gradients):
    torch.manual_seed(0)
    cfg = model_cfg(vision=vision()) | {"embed_dim": 32}
    towers = TwoTower(cfg).double()
    images = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8)
    tokens, keys = torch.ones(5, 24, dtype=torch.int64), keys_of(5)
    stock = stock_of(towers)
    trunk = getattr(stock.visual, "trunk", None)
    prefix = 1 if trunk is None else trunk.num_prefix_tokens
    drop = Kept(kept_patches(keys, 16, 0.6), prefix, with_indices=trunk is not None and hasattr(trunk, "rope"))
    setattr(*((stock.visual, "patch_dropout") if trunk is None else (trunk, "patch_drop")), drop)
    naive = torch.nn.functional.normalize(stock.encode_image(towers.spec.normalise(images, torch.float64)), dim=-1)
    ours = towers(images, tokens, keys=keys, dropped=0.6).image_embed
    assert (ours - naive).abs().max() < 1e-12
    expected, got = gradients(stock, naive), gradients(towers.backbone, ours)
    assert got.keys() == expected.keys()
    scale = max(float(gradient.abs().max()) for gradient in expected.values())
    for name, gradient in expected.items():
        assert (got[name] - gradient).abs().max() < 1e-10 * scale, name


def test_splitting_a_batch_changes_no_embedding_and_dropped_pixels_are_never_read(model_cfg):
    towers = TwoTower(model_cfg()).double()
    images = torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8)
    tokens, keys = torch.ones(6, 24, dtype=torch.int64), keys_of(6)
    whole = towers(images, tokens, keys=keys, dropped=0.5).image_embed
    parts = [
        towers(images[start : start + 2], tokens[start : start + 2], keys=keys[start : start + 2], dropped=0.5)
        for start in (0, 2, 4)
    ]
    assert torch.allclose(torch.cat([part.image_embed for part in parts]), whole, atol=1e-14)
    dropped = torch.ones(6, 16, dtype=torch.bool).scatter(1, kept_patches(keys, 16, 0.5), False)
    mask = dropped.unflatten(1, (4, 4)).repeat_interleave(8, 1).repeat_interleave(8, 2)[:, None]
    painted = torch.where(mask, 255 - images, images)
    assert torch.equal(towers(painted, tokens, keys=keys, dropped=0.5).image_embed, whole)


REFUSED = {
    "ModifiedResNet": {"layers": [1, 1, 1, 1], "width": 16, "image_size": 64, "head_width": 16},
    "ConvNeXt": {"timm_model_name": "convnext_atto", "timm_pool": "avg", "image_size": 64},
    "HybridEmbed": {"timm_model_name": "vitamin_small_224", "timm_pool": "", "image_size": 224},
    "ResNet": {"timm_model_name": "test_resnet", "timm_pool": "avg", "image_size": 64},
}


@pytest.mark.parametrize(("kind", "vision"), REFUSED.items(), ids=REFUSED.keys())
def test_towers_whose_patches_mix_are_refused_by_name(kind: str, vision: dict, model_cfg):
    with torch.device("meta"):
        towers = TwoTower(model_cfg(vision=vision))
    with pytest.raises(UserError, match=rf"towers.patch_dropout=0.5: .*image tower.*{kind}"):
        towers.set_up(TowersConfig(patch_dropout=0.5))


@pytest.mark.parametrize("vision", [{}, timm("vit_mapped_tiny", "map", **MAPPED)], ids=["open_clip", "timm"])
def test_the_architectures_own_dropout_becomes_ours(vision: dict, model_cfg):
    towers = TwoTower(model_cfg(vision={**vision, "patch_dropout": 0.5}) | {"embed_dim": 32}).train()
    assert towers.patch_dropout == 0.5
    assert towers.model_cfg["vision_cfg"]["patch_dropout"] == 0.5
    pixels = torch.randn(2, 3, 32, 32)
    state = torch.get_rng_state()
    with torch.no_grad():
        assert torch.equal(towers.encode_image(pixels), towers.encode_image(pixels))
    assert torch.equal(torch.get_rng_state(), state), "nothing is drawn from the global generator"
    towers.set_up(TowersConfig(patch_dropout=0.0))
    assert towers.patch_dropout == 0.0


def test_the_tail_of_a_run_sees_all_patches(model_cfg):
    towers = TwoTower(model_cfg())
    towers.set_up(TowersConfig(patch_dropout=0.5, unmasked_tail=0.25))
    assert [towers.dropped_share(samples, 400) for samples in (0, 296, 300, 399)] == [0.5, 0.5, 0.0, 0.0]
    towers.set_up(TowersConfig(patch_dropout=0.5))
    assert towers.dropped_share(399, 400) == 0.5


def test_keys_are_asked_for(model_cfg):
    with pytest.raises(ValueError, match="dropped=0.5 without keys"):
        TwoTower(model_cfg())(torch.zeros(1, 3, 32, 32, dtype=torch.uint8), torch.ones(1, 24).long(), dropped=0.5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"patch_dropout": 1.0}, r"towers.patch_dropout=1.0: expected a share from 0 to below 1"),
        ({"unmasked_tail": -0.1}, r"towers.unmasked_tail=-0.1: expected a share"),
        ({"patch_dropout": 0.5, "lock_image": True}, "towers.lock_image keeps from learning"),
        ({"text_groups": 0}, r"towers.text_groups=0: expected auto, or at least 1"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict, message: str):
    with pytest.raises(ValueError, match=message):
        TowersConfig(**settings)
