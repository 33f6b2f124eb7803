"""The objectives over pairs: their options, and the ids from which they know duplicates."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmclip.batch import DataPosition, ImageTextBatch, PairLabels, TowerOutput
from mmclip.errors import UserError
from mmclip.objectives import ClipConfig, ObjectiveContext, SiglipConfig
from mmclip.ops.infonce import infonce
from mmclip.ops.sigmoid import sigmoid
from mmclip.release import create
from mmclip.towers.architecture import ModelConfig
from mmclip.training.identity import caption_ids, identity_labels, picture_ids
from mmclip.training.module import TrainingModule

IDS = ("emoji/0.tar/cat", "emoji/0.tar/dog", "emoji/0.tar/cat", "emoji/1.tar/cat")
CAPTIONS = ["a cat", "a dog that has a much longer caption than the others", "a cat that sleeps", "a cat"]


def outputs(rows: int = 4) -> TowerOutput:
    torch.manual_seed(0)
    image, text = (F.normalize(torch.randn(rows, 6, dtype=torch.float64), dim=1) for _ in range(2))
    scale, bias = torch.tensor([14.3]).double(), torch.tensor([-4.0]).double()
    return TowerOutput(image_embed=image, text_embed=text, logit_scale=scale, logit_bias=bias)


def agreements(labels: PairLabels) -> list[list[bool]]:
    return [[bool((a == b).any()) for b in labels.text] for a in labels.image]


def test_options_reach_the_loss():
    given, label = outputs(), torch.tensor([[1], [2], [1], [3]])
    context = ObjectiveContext(step=0, samples_seen=0, labels=PairLabels(label, label))
    pair = given.image_embed, given.text_embed, given.logit_scale
    losses = set()
    for duplicates in ("positive", "ignored"):
        options = {"duplicates": duplicates, "label_smoothing": 0.1, "tile": 2}
        expected = infonce(*pair, labels=context.labels, duplicates=duplicates, label_smoothing=0.1).loss
        assert ClipConfig(**options).build()(given, context).loss.item() == pytest.approx(expected.item(), rel=1e-12)
        other = sigmoid(*pair, given.logit_bias, labels=context.labels, duplicates=duplicates, label_smoothing=0.1).loss
        assert SiglipConfig(**options).build()(given, context).loss.item() == pytest.approx(other.item(), rel=1e-12)
        losses |= {expected.item(), other.item()}
    assert len(losses) == 4


@pytest.mark.parametrize("implementation", ["auto", "tiled", "reference"])
def test_by_default_every_other_caption_is_a_negative_whatever_the_labels(implementation: str):
    given = outputs()
    label = torch.ones(4, 1, dtype=torch.int64)
    context = ObjectiveContext(step=0, samples_seen=0, labels=PairLabels(label, label))
    logits = given.logit_scale * given.image_embed @ given.text_embed.T
    expected = (F.cross_entropy(logits, torch.arange(4)) + F.cross_entropy(logits.T, torch.arange(4))) / 2
    found = ClipConfig(implementation=implementation).build()(given, context)
    assert found.loss.item() == pytest.approx(expected.item(), rel=1e-12)
    assert set(found.report) == {"in_batch_top_1", "positive_similarity", "negative_similarity"}
    cosines = given.image_embed @ given.text_embed.T
    assert found.report["positive_similarity"].item() == pytest.approx(cosines.diagonal().mean().item())


@pytest.mark.parametrize("config", [ClipConfig, SiglipConfig])
def test_options_that_do_not_fit_are_refused_by_name(config: type[ClipConfig] | type[SiglipConfig]):
    with pytest.raises(ValueError, match=r"objective\.label_smoothing=1\.0"):
        config(label_smoothing=1.0)
    with pytest.raises(ValueError, match=r"objective\.tile=0"):
        config(tile=0)
    with pytest.raises(UserError, match=r"objective\.duplicates='positive' needs the ids"):
        config(duplicates="positive").build()(outputs(), ObjectiveContext(step=0, samples_seen=0))


def test_captions_of_the_same_tokens_share_an_id_and_others_do_not():
    tokens = torch.tensor([[7, 1, 2, 0], [7, 2, 1, 0], [7, 1, 2, 0], [7, 1, 2, 2], [0, 7, 1, 2], [7, 1, 0, 2]])
    ids = caption_ids(tokens)
    assert ids[0] == ids[2]
    assert len(set(ids.tolist())) == 5
    grid = torch.cartesian_prod(torch.arange(300), torch.arange(300))
    assert len(caption_ids(grid).unique()) == 300**2


def test_what_a_tower_does_not_read_is_no_part_of_a_captions_id():
    towers = create(ModelConfig(arch="nano-vit-32"), needs_logit_bias=False)
    module = TrainingModule(towers, ClipConfig(duplicates="ignored").build(), world_size=1)
    whole = towers.tokenizer(CAPTIONS)

    def labels(rows: slice, tokens: Tensor) -> PairLabels | None:
        pixels = torch.zeros(len(tokens), 3, 32, 32, dtype=torch.uint8)
        keys = torch.zeros(len(tokens), dtype=torch.int64)
        batch = ImageTextBatch(images=pixels, tokens=tokens, keys=keys, ids=IDS[rows], position=DataPosition(4))
        return module.pair_labels(batch)

    joined = labels(slice(0, 4), whole)
    assert joined is not None
    parts = [labels(rows, towers.trim(whole[rows])) for rows in (slice(0, 2), slice(2, 4))]
    assert towers.trim(whole[2:]).shape[1] < towers.trim(whole[:2]).shape[1]
    assert torch.equal(torch.cat([part.image for part in parts if part]), joined.image)
    # Captions 0 and 3 are the same, and so are pictures 0 and 2.
    assert agreements(joined) == [[i == j or {i, j} in ({0, 3}, {0, 2}) for j in range(4)] for i in range(4)]
    assert TrainingModule(towers, ClipConfig().build(), world_size=1).objective.needs.pair_labels is False


def test_ids_are_those_of_every_process_and_version():
    """Ranks compare them with each other, so they may not depend on a process, as Python's own hash does."""
    assert picture_ids(("a", "b"), torch.device("cpu")).tolist() == [3405396810240292928, 8453121595177857668]
    first_two_of_splitmix64 = 0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4  # seed 0, as its authors' own code prints them
    expected = [-(2**64) + first_two_of_splitmix64[0], sum(first_two_of_splitmix64) - 2**64]
    assert [caption_ids(torch.zeros(1, width, dtype=torch.int64)).item() for width in (1, 2)] == expected
    labels = identity_labels(torch.zeros(2, 1, dtype=torch.int64), ("a", "b"))
    assert labels.text.tolist() == [[expected[0], 3405396810240292928], [expected[0], 8453121595177857668]]
