"""The health of the embeddings of a whole batch, as figures of a log line."""

from collections.abc import Mapping

import torch
from torch import Tensor

from mmclip.batch import StepReport
from mmclip.ops.gather import gather
from mmclip.training.diagnostics import health
from mmclip.training.feature_health import health_of_features, joined_features


def joined(report: StepReport | None) -> dict[str, Tensor]:
    """Embeddings of the whole batch in the order of its samples, which is that of the ranks, and its further features."""
    assert report is not None, "a step was recorded since the last log"
    pairs = {"image": gather(report.image_embed), "text": gather(report.text_embed)}
    return pairs | {name: joined_features(rows) for name, rows in report.features.items()}


def health_figures(embeddings: Mapping[str, Tensor]) -> dict[str, float]:
    """`health/...` of what `joined` has put together."""
    image_embed, text_embed, *_ = embeddings.values()
    figures = health(image_embed, text_embed) if image_embed.shape[1] else {}  # of width 0 where nothing is paired
    for name, rows in list(embeddings.items())[2:]:
        figures |= {f"{name}_{figure}": value for figure, value in health_of_features(rows).items()}
    if not figures:
        return {}
    values = torch.stack([value.to(image_embed) for value in figures.values()]).tolist()  # one wait for the device
    return {f"health/{name}": value for name, value in zip(figures, values, strict=True)}
