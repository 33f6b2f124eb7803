"""Reconstruction of hidden patches by a small decoder."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmclip.batch import TowerOutput, ViewOutput
from mmclip.errors import UserError
from mmclip.objectives import MaskedConfig, ModelShape, ObjectiveContext
from mmclip.objectives.masked import MaskedObjective
from mmclip.objectives.parts.decoder import PatchDecoder, grid_positions
from mmclip.ops.patches import mean_of_hidden, normalised_patches, patches_of

SHAPE = ModelShape(embed=4, pooled=6, image_size=(12, 8), patch_size=(4, 2))
"""Three rows of four patches."""
BATCH, PATCHES, KEPT = 5, 12, 3


def masked(seed: int = 0, **fields: object) -> MaskedObjective:
    torch.manual_seed(seed)
    return MaskedConfig(width=8, depth=2, **fields).build(SHAPE).double()  # pyright: ignore[reportArgumentType]


def outputs(tokens: Tensor, kept: Tensor | None, local: dict[str, Tensor] | None = None) -> TowerOutput:
    nothing = torch.zeros(len(tokens), 0, dtype=torch.float64)
    view = ViewOutput(pooled=tokens.mean(1), tokens=tokens, kept=kept)
    return TowerOutput(
        image_embed=nothing,
        text_embed=nothing,
        logit_scale=torch.ones(1).double(),
        logit_bias=None,
        views={"masked": (view,)},
        local=local or {},
    )


def drawn() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Tokens of all patches, numbers of the kept ones, their tokens, and pixels."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randn(BATCH, PATCHES, SHAPE.pooled, dtype=torch.float64, generator=generator)
    kept = torch.rand(BATCH, PATCHES, generator=generator).argsort(1)[:, :KEPT].sort(1).values
    pixels = torch.randn(BATCH, 3, 12, 8, dtype=torch.float64, generator=generator)
    return tokens, kept, tokens.gather(1, kept[:, :, None].expand(-1, -1, SHAPE.pooled)), pixels


def test_patches_are_cut_row_by_row():
    pixels = (
        torch.arange(2 * 3 * 13 * 9).view(2, 3, 13, 9).double()
    )  # one row and one column beyond the last whole patch
    found = patches_of(pixels, (4, 2))
    assert found.shape == (2, 12, 24)
    for number in range(12):
        row, column = divmod(number, 4)
        tile = pixels[:, :, 4 * row : 4 * row + 4, 2 * column : 2 * column + 2]
        assert torch.equal(found[:, number], tile.permute(0, 2, 3, 1).flatten(1))


def test_the_loss_is_the_error_at_hidden_patches_of_normalised_pixels():
    """A naive loop over samples, patches and pixels."""
    objective, (_, kept, seen, pixels) = masked(), drawn()
    found = objective.local(outputs(seen, kept), {"masked": (pixels,)}, None)["masked"]
    told = objective.decoder(seen, kept).detach()
    for n in range(BATCH):
        errors = []
        for patch in set(range(PATCHES)) - set(kept[n].tolist()):
            row, column = divmod(patch, 4)
            tile = pixels[n, :, 4 * row : 4 * row + 4, 2 * column : 2 * column + 2].permute(1, 2, 0).flatten()
            wanted = (tile - tile.mean()) / (tile.var() + 1e-6).sqrt()
            errors.append(float((told[n, patch] - wanted).square().mean()))
        assert len(errors) == PATCHES - KEPT
        assert found[n].item() == pytest.approx(sum(errors) / len(errors), rel=1e-9)
    context = ObjectiveContext(step=0, samples_seen=0)
    whole = objective(outputs(seen, kept, {"masked": found}), context)
    assert whole.loss.item() == pytest.approx(found.mean().item())
    told_exactly = normalised_patches(patches_of(pixels, (4, 2)))
    assert mean_of_hidden((told_exactly - told_exactly).square().mean(2), kept).tolist() == [0] * BATCH


def test_what_was_kept_is_not_judged_and_what_was_hidden_is():
    objective, (_, kept, seen, pixels) = masked(), drawn()

    def loss(pixels: Tensor) -> Tensor:
        return objective.local(outputs(seen, kept), {"masked": (pixels,)}, None)["masked"]

    for patch in range(PATCHES):
        row, column = divmod(patch, 4)
        other = pixels.clone()
        other[:, :, 4 * row : 4 * row + 4, 2 * column : 2 * column + 2] = torch.randn(BATCH, 3, 4, 2).double()
        is_kept = (kept == patch).any(1)
        assert torch.equal(loss(other) == loss(pixels), is_kept)


def test_a_decoder_tells_the_same_whatever_the_order_of_the_kept_patches():
    objective, (_, kept, seen, _) = masked(), drawn()
    order = torch.randperm(KEPT)
    expected = objective.decoder(seen, kept)
    assert torch.allclose(objective.decoder(seen[:, order], kept[:, order]), expected, atol=1e-12)
    every = torch.arange(PATCHES).expand(BATCH, -1)
    tokens = drawn()[0]
    assert torch.allclose(objective.decoder(tokens, every), objective.decoder(tokens, None), atol=1e-12)


def test_every_hidden_patch_has_a_place():
    """Without positions all hidden patches of a sample would be told alike."""
    told = masked().decoder(*[drawn()[i] for i in (2, 1)])
    assert len(told[0].unique(dim=0)) == PATCHES
    positions = grid_positions(16, 3, 4)
    assert len(positions.unique(dim=0)) == 12
    angle = 2 * 10000 ** (-1 / 4)  # row 2, the second of four frequencies
    assert positions[2 * 4 + 3, 1].item() == pytest.approx(torch.tensor(angle).sin().item())
    assert positions[2 * 4 + 3, 8:12].tolist() == pytest.approx(
        [torch.tensor(3 * 10000 ** (-i / 4)).sin().item() for i in range(4)]
    )


def test_a_noisy_view_is_reconstructed_everywhere():
    objective, (tokens, _, _, pixels) = masked(corruption="noise", noise=0.3), drawn()
    assert "decoder.mask_token" not in objective.state_dict()  # it would never get a gradient
    (view,) = objective.needs.views
    assert (view.masked, view.noise, view.tokens) == (0.0, 0.3, True)
    found = objective.local(outputs(tokens, None), {"masked": (pixels,)}, None)["masked"]
    error = (objective.decoder(tokens, None) - normalised_patches(patches_of(pixels, (4, 2)))).square()
    assert torch.allclose(found, error.mean((1, 2)), rtol=1e-12)


def test_a_teachers_tokens_of_the_whole_picture_are_a_target_without_gradient():
    objective, (tokens, kept, seen, pixels) = masked(target="teacher"), drawn()
    assert objective.needs.momentum is not None
    assert objective.needs.momentum.views == ("masked",)
    taught, seen = tokens.clone().requires_grad_(), seen.requires_grad_()
    found = objective.local(outputs(seen, kept), {"masked": (pixels,)}, outputs(taught, None))["masked"]
    wanted = (taught - taught.mean(2, keepdim=True)) / (taught.var(2, correction=0, keepdim=True) + 1e-5).sqrt()
    error = F.smooth_l1_loss(objective.decoder(seen, kept), wanted, reduction="none").mean(2).detach()
    hidden = torch.ones(BATCH, PATCHES).scatter(1, kept, 0).bool()
    assert found.tolist() == pytest.approx([float(error[n][hidden[n]].mean()) for n in range(BATCH)], rel=1e-9)
    gradients = torch.autograd.grad(found.sum(), [seen, taught], allow_unused=True)
    assert gradients[0] is not None
    assert gradients[1] is None


def test_samples_are_for_themselves_so_parts_of_a_batch_give_the_rows_of_the_whole():
    objective, (_, kept, seen, pixels) = masked(), drawn()
    whole = objective.local(outputs(seen, kept), {"masked": (pixels,)}, None)["masked"]
    parts = [
        objective.local(outputs(seen[rows], kept[rows]), {"masked": (pixels[rows],)}, None)["masked"]
        for rows in (slice(0, 2), slice(2, 5))
    ]
    assert torch.allclose(torch.cat(parts), whole, atol=1e-12)


def test_every_parameter_of_the_decoder_learns_and_positions_are_no_state():
    objective, (_, kept, seen, pixels) = masked(), drawn()
    objective.local(outputs(seen, kept), {"masked": (pixels,)}, None)["masked"].sum().backward()
    assert [name for name, p in objective.named_parameters() if p.grad is None or not p.grad.any()] == []
    assert not any("positions" in name for name in objective.state_dict())
    other = masked(seed=1)
    other.load_state_dict(objective.state_dict())
    assert torch.equal(other.decoder(seen, kept), objective.decoder(seen, kept))


def test_bf16_tokens_under_autocast_give_losses_in_fp32_near_those_of_fp32():
    torch.manual_seed(0)
    decoder_objective = MaskedConfig(width=64, depth=2).build(SHAPE)
    _, kept, seen, pixels = drawn()
    given = {"masked": (pixels.float(),)}
    expected = decoder_objective.local(outputs(seen.float(), kept), given, None)["masked"]
    with torch.autocast("cpu", torch.bfloat16):
        found = decoder_objective.local(outputs(seen.bfloat16(), kept), given, None)["masked"]
    assert found.dtype == torch.float32
    assert torch.allclose(found, expected, rtol=1e-2)


def test_fields_that_do_not_fit_are_refused_by_name():
    for field, value in {"share": 1.0, "width": 33, "depth": 0, "noise": 0.0}.items():
        with pytest.raises(ValueError, match=rf"objective\.{field}={value}"):
            MaskedConfig(**{field: value})
    with pytest.raises(UserError, match="image tower with patches"):
        MaskedConfig().build(ModelShape(embed=4, pooled=6))
    assert PatchDecoder(4, 64, 1, 5, (2, 2)).blocks[0].heads == 2
