"""Figures that tell a healthy embedding space from one that collapses; none of them touches a weight or a gradient.

Rows are L2-normalised embeddings. No single figure is enough (measured): embeddings of rank 5 in 64 dimensions keep a
spread of .95, and a fully collapsed batch has a centred effective rank of 63 of 64, all of it rounding noise, while its
uncentred one is 1. So all of them are logged.
"""

import torch
from jaxtyping import Float
from torch import Tensor

MAX_ROWS = 4096
"""Rows that `health` looks at: evenly spaced ones of a larger batch, at most eight per dimension at 512.

It bounds the time; the figures are means over rows or pairs, whose error at this size is below a percent.
"""
CHUNK_ROWS = 1024
"""Rows whose distances to all others are held at a time: 16 MiB in single precision at `MAX_ROWS`."""


def health(
    image_embed: Float[Tensor, "global_batch embed"], text_embed: Float[Tensor, "global_batch embed"]
) -> dict[str, Float[Tensor, ""]]:
    """Every figure of this file for a batch of pairs, by the name it is logged under without its prefix.

    Of more than `MAX_ROWS` pairs it looks at evenly spaced ones, chosen by their place alone.
    """
    image_embed, text_embed = evenly_spaced(image_embed.detach()), evenly_spaced(text_embed.detach())
    figures = {}
    for modality, embed in (("image", image_embed), ("text", text_embed)):
        figures[f"{modality}_effective_rank"] = effective_rank(embed)
        figures[f"{modality}_effective_rank_centred"] = effective_rank(embed, centred=True)
        figures[f"{modality}_std"] = spread(embed)
        figures[f"{modality}_uniformity"] = uniformity(embed)
    figures["alignment"] = alignment(image_embed, text_embed)
    figures["modality_gap"] = modality_gap(image_embed, text_embed)
    return figures


def effective_rank(rows: Float[Tensor, "batch embed"], centred: bool = False) -> Float[Tensor, ""]:
    """RankMe (Garrido et al. 2023, equation 1): exp of the entropy of the singular values as shares of their sum.

    Between 1 and min(batch, embed); 0 for a matrix of zeros, NaN where a row is not finite. `centred` takes the mean
    row off first: that is blind to a full collapse, whose remainder is rounding noise of full rank.

    The values are the roots of the eigenvalues of the smaller Gram matrix, which squares them: in double precision those
    below about 1e-7 of the largest are rounding and count as 0, no coarser than the single precision of the rows.
    """
    rows = _double(rows)
    if centred:
        rows = rows - rows.mean(dim=0)
    gram = rows @ rows.T if len(rows) < rows.shape[1] else rows.T @ rows
    if not torch.isfinite(gram).all():  # the eigenvalue solver raises on NaN
        return gram.new_tensor(torch.nan)
    eigenvalues = torch.linalg.eigvalsh(gram)
    rounding = len(gram) * torch.finfo(gram.dtype).eps * eigenvalues[-1]
    singular = torch.where(eigenvalues > rounding, eigenvalues, 0.0).sqrt()
    total = singular.sum()
    shares = singular / total.clamp(min=torch.finfo(total.dtype).tiny)
    return torch.special.entr(shares).sum().exp() * (total > 0)


def spread(rows: Float[Tensor, "batch embed"]) -> Float[Tensor, ""]:
    """Mean over dimensions of the standard deviation, times sqrt(embed) (SimSiam, Chen and He 2021, section 4.1).

    About 1 where rows fill the sphere, 0 where all are one. It misses a collapse to few dimensions.
    """
    rows = _single(rows)
    return rows.std(dim=0, correction=0).mean() * rows.shape[1] ** 0.5


def alignment(x: Float[Tensor, "batch embed"], y: Float[Tensor, "batch embed"]) -> Float[Tensor, ""]:
    """Mean squared distance of pairs (Wang and Isola 2020, section 4.1, alpha = 2): 0 where they agree, 2 by chance."""
    return (_single(x) - _single(y)).square().sum(dim=1).mean()


def uniformity(rows: Float[Tensor, "batch embed"]) -> Float[Tensor, ""]:
    """Log of the mean over distinct pairs of exp(-2 |x - y|^2) (Wang and Isola 2020, section 4.1, t = 2).

    About -4 on a sphere of many dimensions (-3.875 for 64), 0 where all rows are one; NaN for a single row.
    """
    rows = _single(rows)
    count = len(rows)
    squares = rows.square().sum(dim=1)
    sums = []
    # Outside autocast: in bf16 the products would be off by 1 %, which is the distance of near neighbours.
    with torch.autocast(rows.device.type, enabled=False):
        for start in range(0, count, CHUNK_ROWS):
            chunk = slice(start, start + CHUNK_ROWS)
            distances = (squares[chunk, None] + squares - 2 * rows[chunk] @ rows.T).clamp(min=0)
            exponents = -2 * distances
            exponents.diagonal(start).fill_(-torch.inf)  # a row's distance to itself is no pair
            sums.append(exponents.flatten().logsumexp(dim=0))
    pairs = torch.tensor(count * (count - 1), dtype=rows.dtype, device=rows.device)
    return torch.stack(sums).logsumexp(dim=0) - pairs.log()


def modality_gap(
    image_embed: Float[Tensor, "batch embed"], text_embed: Float[Tensor, "batch embed"]
) -> Float[Tensor, ""]:
    """Distance of the mean image embedding from the mean text embedding (Liang et al. 2022, "Mind the gap").

    A gap is normal in CLIP models; its size follows the temperature.
    """
    return (_single(image_embed).mean(dim=0) - _single(text_embed).mean(dim=0)).norm()


def evenly_spaced(rows: Float[Tensor, "batch embed"]) -> Float[Tensor, "fewer embed"]:
    """At most `MAX_ROWS` of the rows, at equal distances: the first ones alone would come from few shards."""
    count = len(rows)
    if count <= MAX_ROWS:
        return rows
    return rows[torch.arange(MAX_ROWS, device=rows.device) * count // MAX_ROWS]


def _single(rows: Float[Tensor, "batch embed"]) -> Float[Tensor, "batch embed"]:
    return rows if rows.dtype == torch.float64 else rows.float()


def _double(rows: Float[Tensor, "batch embed"]) -> Float[Tensor, "batch embed"]:
    # Autocast leaves double precision alone. Apple's GPUs have none.
    return (rows.cpu() if rows.device.type == "mps" else rows).double()
