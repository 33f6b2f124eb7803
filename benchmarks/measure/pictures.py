"""Evaluation pictures as tensors, and what towers make of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from mmclip.preprocess import ImageSpec
from mmclip.towers.embedding import evaluating
from mmclip.towers.two_tower import TwoTower
from mmclip_data.loading.decode import decode_image
from mmclip_eval.datasets import open_samples
from mmclip_eval.eval_dataset import EvalDataset, SetConfig
from mmclip_eval.zero_shot import class_weights, rank_and_predict

CHUNK = 500


@dataclass(frozen=True)
class Pictures:
    """Labelled pictures before normalisation."""

    pixels: UInt8[Tensor, "sample 3 height width_px"]
    labels: Int[Tensor, " sample"]

    def grey(self) -> Float[Tensor, "sample pixel"]:
        """One channel as features: that of grey pictures is all there is."""
        return self.pixels[:, 0].flatten(1).float() / 255


def pictures_of(dataset: EvalDataset, spec: ImageSpec, of_each_class: int | None = None) -> Pictures:
    """The pictures of a set as an evaluation prepares them: all, or the first ones of each class."""
    rows, labels = dataset.encoded_rows, dataset.labelled.labels
    chosen = torch.arange(len(labels)) if of_each_class is None else first_of_each(labels, of_each_class)
    pixels = [spec.to_uint8(decode_image(rows.image_bytes(row))) for row in chosen.tolist()]
    return Pictures(torch.stack(pixels), labels[chosen])


def first_of_each(labels: Int[Tensor, " sample"], count: int) -> Int[Tensor, " chosen"]:
    """The first ones of every class, in the order of the set."""
    chosen = [(labels == label).nonzero()[:count, 0] for label in labels.unique()]
    return torch.cat(chosen).sort().values


def opened(path: str | Path, **options: object) -> EvalDataset:
    """A set by its place."""
    return open_samples(SetConfig(name="pictures", path=str(path), **options))  # pyright: ignore[reportArgumentType]


@torch.inference_mode()
def pooled_features(
    towers: TwoTower, pixels: UInt8[Tensor, "sample 3 height width_px"]
) -> Float[Tensor, "sample width"]:
    """What the image tower pools, before its projection: that is what objectives over views train."""
    with evaluating(towers):
        chunks: Sequence[Tensor] = pixels.split(CHUNK)
        return torch.cat([towers.encode_view(towers.spec.normalise(chunk, torch.float32)).pooled for chunk in chunks])


@torch.inference_mode()
def correct_by_prompts(towers: TwoTower, dataset: EvalDataset) -> Bool[Tensor, " sample"]:
    """Which pictures go to their own class, by the prompts of the set."""
    pictures = pictures_of(dataset, towers.spec)
    with evaluating(towers):
        embed = torch.cat([towers.embed_uint8(chunk) for chunk in pictures.pixels.split(CHUNK)])
        rank, _ = rank_and_predict(embed, pictures.labels, class_weights(dataset.prompts, towers.embed_texts))
    return rank < 1
