"""Several objectives in one run: weights over the run, shared views and teachers, and what cannot be together."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mmclip.batch import ObjectiveOutput, PairLabels, TowerOutput, ViewOutput
from mmclip.errors import UserError
from mmclip.objectives import (
    ByolConfig,
    ClipConfig,
    DinoConfig,
    MaskedConfig,
    MocoConfig,
    ModelShape,
    ObjectiveContext,
    QueueConfig,
    SiglipConfig,
    SimclrConfig,
    VicregConfig,
)
from mmclip.objectives.combined import AuxiliaryConfig, CombinedObjective, build_objective, needs_of

SHAPE = ModelShape(embed=4, pooled=6, image_size=(32, 32), patch_size=(8, 8))
SIMCLR, VICREG = SimclrConfig(hidden=8, out=4), VicregConfig(hidden=8, out=4)


def output(views: int = 2) -> TowerOutput:
    drawn = torch.Generator().manual_seed(0)

    def rows(width: int) -> Tensor:
        return torch.randn(5, width, dtype=torch.float64, generator=drawn)

    image, text = (torch.nn.functional.normalize(rows(4), dim=1) for _ in range(2))
    scale = torch.tensor([5.0], dtype=torch.float64)
    return TowerOutput(image, text, scale, None, views={"strong": tuple(ViewOutput(rows(6)) for _ in range(views))})


def at(share: float) -> ObjectiveContext:
    return ObjectiveContext(step=3, samples_seen=9, share=share)


def built(*auxiliary: AuxiliaryConfig) -> CombinedObjective:
    torch.manual_seed(0)
    found = build_objective(ClipConfig(), auxiliary, SHAPE).double()
    assert isinstance(found, CombinedObjective)
    return found


def test_the_loss_is_the_weighted_sum_and_each_part_is_told_under_its_own_name():
    combined = built(AuxiliaryConfig(objective=SIMCLR, weight=0.3), AuxiliaryConfig(objective=VICREG, weight=2.0))
    found = combined(output(), at(0.0))
    main = ClipConfig().build(SHAPE)(output(), at(0.0))
    simclr, vicreg = (part(output(), at(0.0)) for part in combined.auxiliary)
    torch.testing.assert_close(found.loss, main.loss + 0.3 * simclr.loss + 2 * vicreg.loss, rtol=1e-12, atol=0.0)
    assert set(main.report) | {"main/loss", "simclr/loss", "vicreg/loss"} <= set(found.report)
    assert found.report["simclr/view_similarity"] == simclr.report["view_similarity"]
    assert found.report["vicreg/loss"] == vicreg.loss.detach()


def test_two_of_one_kind_have_names_of_their_own():
    combined = built(AuxiliaryConfig(objective=SIMCLR), AuxiliaryConfig(objective=replace(SIMCLR, temperature=0.5)))
    assert {"simclr_0/loss", "simclr_1/loss"} <= set(combined(output(), at(0.0)).report)


@pytest.mark.parametrize(
    ("share", "expected"),
    [(0.0, 0.0), (0.19, 0.0), (0.2, 0.0), (0.3, 1.0), (0.4, 2.0), (0.8, 2.0), (0.9, 0.0), (1.0, 0.0)],
)
def test_a_weight_begins_rises_and_ends_by_shares_of_the_run(share: float, expected: float):
    part = AuxiliaryConfig(objective=SIMCLR, weight=2.0, start=0.2, ramp=0.2, end=0.9)
    assert part.weight_at(share) == pytest.approx(expected)


def test_what_does_not_count_yet_needs_no_view_and_gets_no_gradient():
    combined = built(AuxiliaryConfig(objective=SIMCLR, start=0.5))
    assert [view.name for view in combined.needs.views] == ["strong"]
    assert combined.needs_at(0.4).views == ()
    assert [view.name for view in combined.needs_at(0.5).views] == ["strong"]
    found = combined(output(views=0), at(0.4))
    assert found.loss == ClipConfig().build(SHAPE)(output(), at(0.4)).loss
    assert "simclr/loss" not in found.report
    combined(output(), at(0.5)).loss.backward()
    assert all(parameter.grad is not None for parameter in combined.parameters())


def test_a_weight_of_0_is_the_main_objective_alone():
    combined = built(AuxiliaryConfig(objective=SIMCLR, weight=0.0))
    assert combined.needs == ClipConfig().needs
    assert combined(output(), at(0.0)).loss == ClipConfig().build(SHAPE)(output(), at(0.0)).loss


def test_state_is_changed_by_the_parts_that_counted_and_by_their_own_tensors():
    queue = QueueConfig(queue_size=8)
    torch.manual_seed(0)
    combined = build_objective(queue, (AuxiliaryConfig(objective=SIMCLR),), SHAPE).double()
    label = torch.arange(5)[:, None]
    context = replace(at(0.0), labels=PairLabels(label, label), momentum=output())
    found = combined(output(), context)
    assert set(found.staged) == {"main/image", "main/text"}
    combined.on_optimizer_step(found.staged, context, torch.tensor(0.0))
    state = combined.state_dict()
    assert state["main.images.pushed"] == 5
    assert torch.equal(state["main.images.keys"][:5], output().image_embed)


def test_losses_of_single_samples_reach_the_part_that_made_them():
    masked = MaskedConfig(width=8, depth=1)
    torch.manual_seed(0)
    combined = build_objective(ClipConfig(), (AuxiliaryConfig(objective=masked),), SHAPE).double()
    kept = torch.tensor([[0, 5, 9]]).expand(5, -1)
    tokens = torch.randn(5, 3, 6, dtype=torch.float64)
    given = replace(output(), views={"masked": (ViewOutput(tokens.mean(1), None, tokens, kept),)})
    pixels = {"masked": (torch.randn(5, 3, 32, 32, dtype=torch.float64),)}
    local = combined.local(given, pixels, None)
    assert set(local) == {"masked/masked"}
    found = combined(replace(given, local=local), at(0.0))
    torch.testing.assert_close(found.report["masked/loss"], local["masked/masked"].mean().detach())


def test_objectives_share_views_of_one_name_and_a_teacher_of_one_momentum():
    needs = needs_of(SiglipConfig(), [AuxiliaryConfig(objective=ByolConfig()), AuxiliaryConfig(objective=SIMCLR)])
    assert [view.name for view in needs.views] == ["strong"]
    assert needs.momentum is not None
    assert needs.momentum.views == ("strong",)
    assert needs.logit_bias
    assert needs.pairs
    with pytest.raises(
        UserError, match=r"share the momentum towers of a run, with momenta 0\.996 to 1\.0 and 0\.999 to 0\.999"
    ):
        needs_of(ClipConfig(), [AuxiliaryConfig(objective=ByolConfig()), AuxiliaryConfig(objective=MocoConfig())])
    moco = AuxiliaryConfig(objective=MocoConfig())
    one_side, both_sides = (
        needs_of(ClipConfig(), [moco]),
        needs_of(ClipConfig(), [moco, AuxiliaryConfig(objective=SIMCLR)]),
    )
    assert [(view.learnt, view.taught) for view in (*one_side.views, *both_sides.views)] == [(1, 1), (2, 2)]
    dinos = [AuxiliaryConfig(objective=DinoConfig(local_views=count)) for count in (2, 3)]
    with pytest.raises(UserError, match="different views of the name 'local'"):
        needs_of(ClipConfig(), dinos)


def test_a_view_that_meets_the_caption_comes_from_an_auxiliary_objective():
    silc = SiglipConfig(image_view="global")
    needs = needs_of(silc, [AuxiliaryConfig(objective=DinoConfig())])
    assert needs.embeds_of == "global"
    assert {view.name: view.embeds for view in needs.views} == {"global": True, "local": False}
    with pytest.raises(
        UserError, match=r"image_view='global': no auxiliary objective has such a view \(there are: none\)"
    ):
        needs_of(silc, [])
    late = CombinedObjective(
        silc.build(SHAPE), [(AuxiliaryConfig(objective=DinoConfig(), start=0.5), DinoConfig().build(SHAPE))]
    )
    assert [(view.name, view.embeds) for view in late.needs_at(0.0).views] == [("global", True)]


def test_each_copy_of_that_view_meets_the_captions():
    drawn = torch.Generator().manual_seed(4)
    embeds = [
        torch.nn.functional.normalize(torch.randn(5, 4, dtype=torch.float64, generator=drawn), dim=1) for _ in range(2)
    ]
    given = replace(output(), views={"global": tuple(ViewOutput(embed, embed) for embed in embeds)})
    found: ObjectiveOutput = ClipConfig(image_view="global").build(SHAPE)(given, at(0.0))
    each = [ClipConfig().build(SHAPE)(replace(given, image_embed=embed), at(0.0)).loss for embed in embeds]
    torch.testing.assert_close(found.loss, (each[0] + each[1]) / 2, rtol=1e-12, atol=0.0)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"weight": -1.0}, r"auxiliary\.weight=-1\.0"),
        ({"weight": float("nan")}, r"auxiliary\.weight=nan"),
        ({"start": 0.5, "end": 0.5}, r"start=0\.5, ramp=0\.0, end=0\.5"),
        ({"ramp": 1.5}, r"ramp=1\.5"),
    ],
)
def test_weights_that_are_none_are_refused(wrong: dict[str, float], told: str):
    with pytest.raises(ValueError, match=told):
        AuxiliaryConfig(objective=SIMCLR, **wrong)
