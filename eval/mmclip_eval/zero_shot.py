"""Zero-shot classification: each picture goes to the class whose prompts it is most like (CLIP, section 3.1.4)."""

from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from mmclip_eval.metrics.bootstrap import accuracy_interval, mean_per_class_recall_interval
from mmclip_eval.metrics.classification import mean_per_class_recall, top_k_accuracy
from mmclip_eval.metrics.confusion import rank_and_prediction
from mmclip_eval.metrics.estimate import Estimate
from mmclip_eval.prompts.prompt_set import ClassTexts

EncodeTexts = Callable[[Sequence[str]], Float[Tensor, "batch embed"]]
CLASS_BLOCK = 256
"""Classes whose texts are encoded at a time, so that 80 templates of 20,000 classes never lie in memory together."""
SAMPLE_BLOCK = 4096
"""Rows of the score matrix held at a time."""


def class_weights(texts: ClassTexts, encode_texts: EncodeTexts) -> Float[Tensor, "class embed"]:
    """Per class the normalised mean of its texts' normalised embeddings; classes of equal names get equal rows.

    The texts are every template with every name of the class, so a class of two names has twice as many.
    """
    distinct = list(dict.fromkeys(texts.classes))
    blocks = [distinct[start : start + CLASS_BLOCK] for start in range(0, len(distinct), CLASS_BLOCK)]
    weights = torch.cat([_block_weights(ClassTexts(tuple(block), texts.prompts), encode_texts) for block in blocks])
    row = {names: index for index, names in enumerate(distinct)}
    return weights[torch.tensor([row[names] for names in texts.classes])]


def notes_of_ties(names: Sequence[str], weights: Float[Tensor, "class embed"]) -> tuple[str, ...]:
    """What to note where classes of different names are one to the model, as names are that differ in case alone."""
    first: dict[bytes, str] = {}
    found = []
    for name, row in zip(names, weights.cpu().numpy(), strict=True):
        earlier = first.setdefault(row.tobytes(), name)
        if earlier != name:
            found.append(f"{earlier!r} and {name!r}")
    if not found:
        return ()
    return (
        f"classes that are one to the model, for their texts give the same tokens: {len(found)}, such as {found[0]}; "
        "a tie is never a hit",
    )


def rank_and_predict(
    image_embed: Float[Tensor, "sample embed"], labels: Int[Tensor, " sample"], weights: Float[Tensor, "class embed"]
) -> tuple[Int[Tensor, " sample"], Int[Tensor, " sample"]]:
    """Per sample how many other classes score at least as high as its own, and which class it is taken for.

    On a tie with its own class a sample is taken for the other one.
    """
    blocks = zip(image_embed.split(SAMPLE_BLOCK), labels.split(SAMPLE_BLOCK), strict=True)
    found = [rank_and_prediction(embed @ weights.T, label) for embed, label in blocks]
    return torch.cat([rank for rank, _ in found]), torch.cat([predicted for _, predicted in found])


def accuracy_figures(
    rank: Int[Tensor, " sample"], labels: Int[Tensor, " sample"], classes: int
) -> Iterator[tuple[str, Estimate]]:
    """Yield `acc1`, `acc5` (from five classes on) and `mean_per_class_recall`, under CLIP_benchmark's names.

    Chance is a uniform guess. With exactly five classes `acc5` is 1 by construction, as is its chance.
    """
    for k in (1, 5):
        if k <= classes:
            yield f"acc{k}", Estimate(top_k_accuracy(rank, k), accuracy_interval(rank < k), chance=k / classes)
    correct = rank < 1
    recall, interval = mean_per_class_recall(correct, labels), mean_per_class_recall_interval(correct, labels)
    yield "mean_per_class_recall", Estimate(recall, interval, chance=1 / classes)


def _block_weights(block: ClassTexts, encode_texts: EncodeTexts) -> Tensor:
    texts = [block[index] for index in range(len(block))]
    embeds = F.normalize(encode_texts([text for own in texts for text in own]), dim=-1)
    means = [own.mean(dim=0) for own in embeds.split([len(own) for own in texts])]
    return F.normalize(torch.stack(means), dim=-1)
