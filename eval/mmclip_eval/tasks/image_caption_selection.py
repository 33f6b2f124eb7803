"""`image_caption_selection`: the right caption for a picture, the right picture for a caption, among a few that differ little.

SugarCrepe and ARO have one picture and a wrong caption or several, Winoground two pictures and their two captions. A
sample is one such instance: its i-th picture belongs to its i-th caption.
"""

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mmclip.config import config
from mmclip.errors import UserError
from mmclip_eval.eval_dataset import EvalDataset, Part
from mmclip_eval.metrics.bootstrap import accuracy_interval
from mmclip_eval.metrics.estimate import Estimate
from mmclip_eval.metrics.selection import chance_selection, select
from mmclip_eval.prompts.prompt_set import sha256_of
from mmclip_eval.tasks.base import EvalTask, Outcome, Table, TaskContext

FIGURES: tuple[str, ...] = ("text_acc", "image_acc", "acc")


@config
class ImageCaptionSelection(EvalTask):
    """Strictly: a tie is a loss, so that a collapsed model wins nothing."""

    type: Literal["image_caption_selection"] = "image_caption_selection"
    public_name: ClassVar[str] = "image_caption_selection"
    needs: ClassVar[tuple[Part, ...]] = ("choices",)
    dataset_type: ClassVar[str | None] = "image_caption_selection"

    def check(self, dataset: EvalDataset, related: Mapping[str, EvalDataset]) -> None:
        """Refuse an instance that has nothing to choose from."""
        pictures, captions = _counts(dataset)
        single = ((pictures < 2) & (captions < 2)).nonzero()[:, 0]
        if len(single):
            raise UserError(
                f"sample {dataset.samples.sample_id(int(single[0]))}: one picture and one caption leave nothing to select "
                f"({len(single)} such samples); captions must hold the right one first, then the wrong ones"
            )

    def run(self, context: TaskContext) -> Outcome:
        """`image_acc`, `text_acc` and `acc` (both), and the table `groups` where the set has groups.

        Chance is that of random scores, over the shapes that the instances have. With one picture `image_acc` is 1 by
        construction, as is its chance.
        """
        dataset = context.dataset
        right, chance = _select(dataset, context.image_embed, context.encode_texts(dataset.choices.texts))
        metrics = {
            name: Estimate(float(right[name].double().mean()), accuracy_interval(right[name]), chance[name])
            for name in FIGURES
        }
        details = {
            "num_captions": len(dataset.choices.texts),
            "num_pictures": len(context.image_embed),
            "captions": {"sha256": sha256_of(dataset.choices.texts)},
        }
        return Outcome(metrics, details, _tables(dataset, right))


def _counts(dataset: EvalDataset) -> tuple[Int[Tensor, " sample"], Int[Tensor, " sample"]]:
    """How many pictures and captions each sample has."""
    sides = dataset.rows.sample_of_row, dataset.choices.sample_of_text
    pictures, captions = (torch.bincount(side, minlength=len(dataset.samples)) for side in sides)
    return pictures, captions


def _select(
    dataset: EvalDataset, image_embed: Float[Tensor, "row embed"], caption_embed: Float[Tensor, "caption embed"]
) -> tuple[Mapping[str, Tensor], Mapping[str, float]]:
    """What was right of each sample, and the mean chance; samples of one shape are compared together."""
    pictures, captions = _counts(dataset)
    right = {name: torch.zeros(len(pictures), dtype=torch.bool) for name in FIGURES}
    chance = dict.fromkeys(FIGURES, 0.0)
    for shape in torch.stack([pictures, captions], dim=1).unique(dim=0):
        images, texts = shape.tolist()
        chosen = (pictures == images) & (captions == texts)
        rows = image_embed[chosen[dataset.rows.sample_of_row]].unflatten(0, (-1, images))
        own = caption_embed[chosen[dataset.choices.sample_of_text]].unflatten(0, (-1, texts))
        found = select(rows @ own.mT)
        values = zip(FIGURES, (found.text, found.image, found.both), chance_selection(images, texts), strict=True)
        for name, hits, guess in values:
            right[name][chosen] = hits
            chance[name] += guess * float(chosen.double().mean())
    return right, chance


def _tables(dataset: EvalDataset, right: Mapping[str, Tensor]) -> Mapping[str, Table]:
    groups = dataset.groups
    if groups is None:
        return {}
    size = torch.bincount(groups.of_sample, minlength=len(groups.names))
    means = {
        name: torch.bincount(groups.of_sample, weights=hits.double(), minlength=len(size)) / size
        for name, hits in right.items()
    }
    rows = zip(groups.names, size.tolist(), *(mean.tolist() for mean in means.values()), strict=True)
    return {"groups": Table(("group", "samples", *means), list(rows))}
