"""Learning from classes and from a teacher: losses against their closed forms, heads that are saved, teachers that fit."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from mmclip import load
from mmclip.batch import DataPosition, ImageTextBatch, TowerOutput
from mmclip.errors import UserError
from mmclip.objectives import ClassifyConfig, ClipConfig, DistillConfig, ObjectiveContext
from mmclip.release import create
from mmclip.towers.architecture import ModelConfig
from mmclip.towers.class_head import HEAD_FILE, ClassHead
from mmclip.towers.settings import TowersConfig
from mmclip.towers.two_tower import TwoTower
from mmclip.towers.weights import save_weights
from mmclip.training.accumulate import GraphBudget, accumulate
from mmclip.training.module import TrainingModule
from mmclip.training.teacher import Teacher


def towers(size: int = 32, embed_dim: int = 16, context_length: int = 8, seed: int = 0) -> TwoTower:
    torch.manual_seed(seed)
    return TwoTower(
        {
            "embed_dim": embed_dim,
            "vision_cfg": {"image_size": size, "patch_size": 8, "width": 32, "layers": 1, "head_width": 16},
            "text_cfg": {"context_length": context_length, "vocab_size": 49408, "width": 16, "heads": 1, "layers": 1},
        }
    )


def batch(model: TwoTower, rows: int = 8) -> ImageTextBatch:
    generator = torch.Generator().manual_seed(1)
    return ImageTextBatch(
        images=torch.randint(0, 256, (rows, 3, 32, 32), dtype=torch.uint8, generator=generator),
        tokens=model.trim(model.tokenizer([f"a picture of {word}" for word in "abcdefgh"[:rows]])),
        keys=torch.arange(rows),
        ids=tuple(f"train/0.tar/{row}" for row in range(rows)),
        position=DataPosition(rows),
        classes=torch.arange(rows) % 3,
    )


def normalised(rows: int, width: int, seed: int) -> torch.Tensor:
    return F.normalize(torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)).double(), dim=1)


def test_distillation_is_the_cross_entropy_under_the_teacher_beside_that_of_the_pairs():
    student = [normalised(5, 4, seed).requires_grad_() for seed in (0, 1)]
    taught = TowerOutput(normalised(5, 7, 2), normalised(5, 7, 3), torch.tensor([20.0]).double(), None)
    context = ObjectiveContext(step=0, samples_seen=0, teacher=taught)
    found = DistillConfig(weight=0.3).build()(
        TowerOutput(student[0], student[1], torch.tensor([10.0]).double(), None), context
    )
    logits, target = 10 * student[0] @ student[1].T, 20 * taught.image_embed @ taught.text_embed.T
    own = (F.cross_entropy(logits, torch.arange(5)) + F.cross_entropy(logits.T, torch.arange(5))) / 2
    theirs = (F.cross_entropy(logits, target.softmax(1)) + F.cross_entropy(logits.T, target.T.softmax(1))) / 2
    assert found.loss.item() == pytest.approx((0.7 * own + 0.3 * theirs).item(), rel=1e-10)
    assert (found.report["pairs_loss"].item(), found.report["teacher_loss"].item()) == pytest.approx(
        (own.item(), theirs.item())
    )


def test_a_teacher_of_another_size_sees_the_same_pictures_and_gets_no_gradient():
    student, larger = towers(), towers(size=48, embed_dim=24, context_length=12, seed=1)
    teacher, given = Teacher(larger, student, "fp32", torch.device("cpu")), batch(student)
    whole, parts = teacher(given, 1), teacher(given, 4)
    assert whole.image_embed.shape == (8, 24)
    assert not whole.image_embed.requires_grad
    assert torch.allclose(whole.image_embed, parts.image_embed, atol=1e-6)
    assert torch.allclose(
        whole.text_embed, larger.embed_tokens(larger.tokenizer([f"a picture of {c}" for c in "abcdefgh"]))
    )


def test_a_teacher_that_reads_other_tokens_is_refused():
    with pytest.raises(UserError, match="reads captions as other tokens than the student"):
        Teacher(towers(context_length=6), towers(), "fp32", torch.device("cpu"))


def with_head(seed: int = 0) -> TwoTower:
    model = towers(seed=seed)
    model.class_head = ClassHead(("cat", "dog", "tree"), 16)
    generator = torch.Generator().manual_seed(5)
    model.class_head.fill(torch.randn(3, 16, generator=generator), torch.randn(3, generator=generator))
    return model


def test_classification_is_the_cross_entropy_of_the_head_and_pieces_give_the_gradient_of_the_whole():
    gradients = []
    for pieces in (1, 4):
        model = with_head()
        module = TrainingModule(model, ClassifyConfig(label_smoothing=0.1).build())
        given = batch(model)
        context = ObjectiveContext(step=0, samples_seen=0, classes=given.classes)
        _, output = accumulate(
            given.split(pieces),
            module.encode,
            lambda whole, module=module, context=context: module.objective(whole, context),
            lambda loss: loss.backward(),
            GraphBudget(0),
        )
        logits = module.encode(given).image_embed @ model.class_head.weight.T + model.class_head.bias  # pyright: ignore
        expected = F.cross_entropy(logits, given.classes, label_smoothing=0.1)  # pyright: ignore[reportArgumentType]
        assert output.loss.item() == pytest.approx(expected.item(), rel=1e-5)
        gradients.append({name: p.grad for name, p in module.named_parameters() if p.grad is not None})
    whole, parts = gradients
    assert {"towers.class_head.weight", "towers.class_head.bias", "towers.backbone.visual.proj"} <= set(whole)
    assert not model.logit_scale.requires_grad
    for name, gradient in whole.items():
        assert torch.allclose(gradient, parts[name], atol=1e-6), name


def test_an_objective_over_classes_without_classes_or_head_is_refused():
    with pytest.raises(UserError, match="needs a head over the classes"):
        TrainingModule(towers(), ClassifyConfig().build())
    model = with_head()
    module = TrainingModule(model, ClassifyConfig().build())
    with pytest.raises(UserError, match=r"needs data\.labels"):
        module(replace(batch(model), classes=None), ObjectiveContext(step=0, samples_seen=0))


def test_samples_of_a_class_are_no_negatives_where_there_are_classes():
    model = towers()
    module = TrainingModule(model, ClipConfig(duplicates="positive").build())
    labels = module.pair_labels(batch(model))
    assert labels is not None
    assert labels.image[:, 0].tolist() == labels.text[:, 0].tolist() == [0, 1, 2, 0, 1, 2, 0, 1]


def test_a_head_goes_with_the_weights_and_a_damaged_one_is_named(tmp_path: Path):
    model = with_head()
    save_weights(model, tmp_path)
    found = load(tmp_path).class_head
    assert found is not None
    assert model.class_head is not None
    assert found.names == ("cat", "dog", "tree")
    embed = torch.randn(4, 16)
    assert torch.equal(found(embed), model.class_head(embed))
    content = (tmp_path / HEAD_FILE).read_bytes()
    (tmp_path / HEAD_FILE).write_bytes(content[:-20])
    with pytest.raises(UserError, match="is no class head of mmclip"):
        load(tmp_path)


def test_batch_norms_at_rest_keep_their_statistics_and_learn_their_gains():
    for rests in (False, True):
        model = create(ModelConfig(arch="tiny-resnet-32"), False, TowersConfig(rest_batch_norm=rests)).train()
        assert (model.moving_batch_norms() == []) == rests
        before = {name: tensor.clone() for name, tensor in model.backbone.named_buffers() if "running" in name}
        assert before
        given = batch(model)
        model(given.images, given.tokens).image_embed.sum().backward()
        after = dict(model.backbone.named_buffers())
        assert all(torch.equal(tensor, after[name]) for name, tensor in before.items()) == rests
        gains = [p for name, p in model.backbone.visual.named_parameters() if "bn" in name and name.endswith("weight")]
        assert gains
        assert all(gain.grad is not None for gain in gains)
