"""How large the pictures of shards are, how long their captions, how wide their aspects: from the indexes, undecoded.

mmclip shards stats data/mine/train --output mine.png
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmclip.config import config
from mmclip.errors import UserError
from mmclip_data.pipelines.job import Track, quiet
from mmclip_data.shards.atomic import atomic_file
from mmclip_data.shards.columns import ShardIndex
from mmclip_data.shards.names import IMAGE_EXTENSIONS
from mmclip_data.shards.pictures import FORMATS
from mmclip_data.stores import CacheConfig, expand_places, open_indexes

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
ENDINGS = (".png", ".svg")
COLOUR = "#4c72b0"
Values = NDArray[np.float64]


@config
class StatsConfig:
    """Histograms of picture sizes, aspects and caption lengths, from the indexes of shards."""

    shards: tuple[str, ...]
    """Files, folders, patterns such as data/{000..127}.tar, or URLs."""
    output: Path | None = None
    """A .png or .svg to draw."""
    index_folder: Path | None = None
    """Where the indexes stand when they are not beside the shards."""
    json: bool = False
    """Print one JSON object."""


@dataclass(frozen=True)
class Measure:
    """One quantity, an entry for each sample that has it."""

    name: str
    unit: str
    values: Values

    def quantiles(self) -> list[float]:
        """At `QUANTILES`."""
        return np.quantile(self.values, QUANTILES).tolist()


@dataclass(frozen=True)
class ShardStats:
    """All samples of some shards, by what their indexes say."""

    shards: int
    samples: int
    formats: dict[str, int]
    measures: tuple[Measure, ...]
    drawing: Path | None = None

    def facts(self) -> dict[str, Any]:
        """As JSON."""
        figures = {
            measure.name: {"unit": measure.unit, "samples": len(measure.values), "mean": float(measure.values.mean())}
            | {f"p{round(100 * place)}": value for place, value in zip(QUANTILES, measure.quantiles(), strict=True)}
            for measure in self.measures
        }
        return {"shards": self.shards, "samples": self.samples, "formats": self.formats, **figures}

    def lines(self) -> list[str]:
        """A table in plain text."""
        formats = ", ".join(f"{count:,} {name}" for name, count in self.formats.items())
        lines = [f"{self.samples:,} samples in {self.shards:,} shards; {formats}"]
        names = ("samples", "least", "5 %", "25 %", "median", "75 %", "95 %", "most")
        header = "".join(f"{name:>10}" for name in names)
        lines.append(f"{'':22}{header}")
        for measure in self.measures:
            title = f"{measure.name} ({measure.unit})"
            # Not every sample has a caption, and a size: how many do belongs to the quantiles.
            figures = "".join(f"{_short(value):>10}" for value in measure.quantiles())
            lines.append(f"{title:22}{len(measure.values):>10,}{figures}")
        return lines + ([f"drawn: {self.drawing}"] if self.drawing else [])


def shard_stats(config: StatsConfig, track: Track = quiet) -> ShardStats:
    """Read the indexes, and draw their histograms where `output` says.

    Raises:
        UserError: a shard has no index or one of an earlier version, no picture has a known size, or the drawing's
            ending is neither .png nor .svg.
    """
    if config.output is not None and config.output.suffix.lower() not in ENDINGS:
        raise UserError(f"output={config.output}: expected a name that ends in {' or '.join(ENDINGS)}")
    tars = expand_places(config.shards, CacheConfig())
    indexes = list(track(open_indexes(tars, config.index_folder), len(tars), "stats"))
    old = [tar for tar, index in zip(tars, indexes, strict=True) if index.version < 2]
    if old:
        raise UserError(
            f"{old[0]}: its index knows no sizes; make it again with `mmclip shards index --force {old[0]}`"
        )
    measures = tuple(measure for measure in _measures(indexes) if len(measure.values))
    if not measures:
        raise UserError(f"shards={config.shards}: no picture of known size and no caption in {len(tars)} shards")
    kinds = np.concatenate([index.columns["sample_format"] for index in indexes])
    formats = {name: int((kinds == number).sum()) for number, name in enumerate(FORMATS)}
    found = {name: count for name, count in formats.items() if count}
    stats = ShardStats(len(tars), len(kinds), found, measures, config.output)
    if config.output is not None:
        config.output.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(config.output) as handle:
            handle.write(draw(stats, config.output.suffix.lower()[1:]))
    return stats


def _measures(indexes: Sequence[ShardIndex]) -> list[Measure]:
    width, height, caption = (
        np.concatenate([index.columns[f"sample_{name}"] for index in indexes]).astype(np.float64)
        for name in ("width", "height", "caption_bytes")
    )
    sizes = np.concatenate([_picture_bytes(index) for index in indexes])
    known = (width > 0) & (height > 0)
    width, height = width[known], height[known]
    return [
        Measure("short side", "px", np.minimum(width, height)),
        Measure("long side", "px", np.maximum(width, height)),
        Measure("aspect", "width/height", width / height),
        Measure("picture", "bytes", sizes[sizes > 0]),
        Measure("caption", "bytes", caption[caption > 0]),
    ]


def _picture_bytes(index: ShardIndex) -> Values:
    columns = index.columns
    wanted = [number for number, extension in enumerate(index.extensions) if extension in IMAGE_EXTENSIONS]
    rows = np.isin(columns["member_extension"], wanted)
    sizes = np.zeros(index.num_samples)
    sizes[columns["member_sample"][rows]] = columns["member_size"][rows]
    return sizes


def draw(stats: ShardStats, kind: str) -> bytes:
    """The histograms as a file; the same numbers give the same bytes with the same matplotlib."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"svg.hashsalt": "mmclip", "font.size": 9}):
        columns = min(2, len(stats.measures))
        rows = -(-len(stats.measures) // columns)
        figure = Figure(figsize=(4.5 * columns, 2.2 * rows + 0.4), layout="constrained")
        figure.suptitle(f"{stats.samples:,} samples in {stats.shards:,} shards")
        for number, measure in enumerate(stats.measures):
            axes = figure.add_subplot(rows, columns, number + 1)
            _draw_measure(axes, measure)
            if number % columns == 0:
                axes.set_ylabel("samples")
        buffer = io.BytesIO()
        figure.savefig(buffer, format=kind, dpi=120, metadata={"Date": None} if kind == "svg" else {"Software": None})
    return buffer.getvalue()


def _draw_measure(axes: Any, measure: Measure) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    median, decades = float(np.median(measure.values)), np.log10(measure.values.max() / measure.values.min())
    axes.hist(measure.values, bins=_bins(measure.values).tolist(), color=COLOUR)
    axes.axvline(median, color="black", linewidth=0.8)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 2.5 else (1,)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, place: _short(value)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, place: f"{value:,.0f}"))
    axes.set_title(f"{measure.name} ({measure.unit}), median {_short(median)}", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)


def _bins(values: Values) -> Values:
    """Edges that rise by a factor: sizes and lengths span orders of magnitude."""
    least, most = float(values.min()), float(values.max())
    return np.geomspace(least / 1.05, most * 1.05, 41)


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
