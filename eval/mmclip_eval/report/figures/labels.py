"""Text in a figure: made safe for XML, shortened to fit, numbers as people read them, labels kept apart."""

import math
import re
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple, SupportsFloat

import numpy as np
from jaxtyping import Float

from mmclip_eval.report.figures.style import TEXT, Px

# What XML 1.0 cannot hold, not even escaped; and the marks that would turn the line's direction around.
_FORBIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]+")
_NARROW, _WIDE = frozenset(" iIljt1rf.,:;'|!()[]{}/\\\u2009"), frozenset("mwMW@%&\u2026\u2014")


class Box(NamedTuple):
    """A rectangle in px, y downwards."""

    left: Px
    top: Px
    right: Px
    bottom: Px

    def meets(self, other: "Box") -> bool:
        """Whether the two share an area."""
        across = self.left < other.right and other.left < self.right
        return bool(across and self.top < other.bottom and other.top < self.bottom)


def clean(text: str) -> str:
    """One line of text that XML can hold."""
    return " ".join(_FORBIDDEN.sub(" ", text).split())


def _em(character: str) -> float:
    if unicodedata.combining(character):
        return 0.0
    if unicodedata.east_asian_width(character) in "WF":
        return 1.0
    if character in _NARROW:
        return 0.38
    if character in _WIDE:
        return 0.95
    return 0.69 if character.isupper() else 0.61


def text_width(text: str, size: Px = TEXT, *, bold: bool = False) -> float:
    """Width in px, rather too wide than too narrow: the page's font is not known when a figure is drawn."""
    return size * sum(map(_em, text)) * (1.1 if bold else 1.0)


def fit(text: str, width: Px, size: Px = TEXT, *, bold: bool = False) -> str:
    """`text` on one line of at most `width` px, shortened with an ellipsis."""
    text = clean(text[:2_000])
    if text_width(text, size, bold=bold) <= width:
        return text
    kept = len(text)
    while kept > 0 and text_width(text[:kept] + "…", size, bold=bold) > width:
        kept -= 1
    return text[:kept].rstrip() + "…"


def wrap(text: str, width: Px, size: Px, lines: int) -> list[str]:
    """Bold `text` cut at spaces into at most `lines` lines of `width` px; what is left over ends in an ellipsis."""
    words, out = clean(text).split(" "), []
    while words and len(out) < lines - 1:
        count = len(words)
        while count > 1 and text_width(" ".join(words[:count]), size, bold=True) > width:
            count -= 1
        out.append(fit(" ".join(words[:count]), width, size, bold=True))
        words = words[count:]
    return [*out, fit(" ".join(words), width, size, bold=True)] if words else out


def number(value: Px) -> str:
    """About three significant digits, thousands apart, k, M and G from ten thousand on."""
    if not math.isfinite(value):
        return str(value)
    size = abs(value)
    if 0 < size < 1e-3:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}".replace("-", "\u2212")
    if size >= 9_999.5:
        return _scaled(value, size)
    decimals = 0 if size >= 100 or size == 0 else min(4, 2 - math.floor(math.log10(size)))
    text = f"{value:,.{decimals}f}"
    text = text.rstrip("0").rstrip(".") if "." in text and size < 1e-2 else text
    return text.replace("-", "\u2212")


def count(value: SupportsFloat) -> str:
    """A whole number, shortened from ten thousand on."""
    return number(float(value)) if float(value) >= 9_999.5 else f"{float(value):,.0f}"


def _scaled(value: Px, size: Px) -> str:
    if size >= 9.995e14:
        return f"{value:.1e}".replace("+", "").replace("-", "\u2212")
    unit, letter = next(
        (unit, letter) for unit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")) if size >= unit * 0.9995
    )
    text = f"{value / unit:.3g}" if size / unit < 999.5 else f"{value / unit:,.0f}"
    return text.replace("-", "\u2212") + letter


def tick_texts(ticks: Sequence[Px]) -> list[str]:
    """Labels of evenly spaced ticks, all with the same unit and the same number of decimals."""
    if len(ticks) < 2:
        return [number(tick) for tick in ticks]
    largest, step = max(abs(tick) for tick in ticks), abs(ticks[1] - ticks[0])
    if largest < 1e-3 or largest >= 1e15:
        return ["0" if tick == 0 else number(tick) for tick in ticks]
    units = ((1e9, "G"), (1e6, "M"), (1e3, "k"))
    unit, letter = next(((unit, letter) for unit, letter in units if largest >= max(unit, 9_999.5)), (1.0, ""))
    decimals = next((count for count in range(7) if abs(round(step / unit, count) * unit - step) < 1e-6 * step), 6)
    texts = ["0" if tick == 0 else f"{tick / unit:,.{decimals}f}{letter}" for tick in ticks]
    return [text.replace("-", "\u2212") for text in texts]


def spread(wanted: Sequence[Px], distance: Px, low: Px, high: Px) -> list[float]:
    """Places near `wanted`, in the same order, at least `distance` apart and inside [low, high] if they fit."""
    order = np.argsort(np.asarray(wanted, dtype=float), kind="stable")
    distance = min(distance, (high - low) / max(len(wanted) - 1, 1))
    # Neighbours that are too close become one block centred on its members' mean, until nothing touches.
    blocks: list[list[float]] = []
    for index in order:
        blocks.append([float(wanted[index])])
        while len(blocks) > 1 and _start(blocks[-1], distance, low, high) < _end(blocks[-2], distance, low, high):
            last = blocks.pop()
            blocks[-1] += last
    starts = [_start(block, distance, low, high) + distance * place for block in blocks for place in range(len(block))]
    places = [0.0] * len(wanted)
    for index, place in zip(order, starts, strict=True):
        places[int(index)] = place
    return places


def _start(block: list[float], distance: Px, low: Px, high: Px) -> float:
    length = distance * (len(block) - 1)
    return float(max(low, min(sum(block) / len(block) - length / 2, high - length)))


def _end(block: list[float], distance: Px, low: Px, high: Px) -> float:
    return _start(block, distance, low, high) + distance * len(block)


def place(
    anchors: Float[np.ndarray, "label 2"],
    widths: Sequence[Px],
    height: Px,
    area: Box,
    taken: Sequence[Box] = (),
) -> list[tuple[float, float]]:
    """Centres for labels, each as near to its anchor (px) as its neighbours allow, along a spiral; in the order given."""
    turns = np.arange(600)
    angle = 2.399963 * turns + math.pi / 2  # the golden angle covers the plane evenly
    spiral = 2.75 * np.sqrt(turns)[:, None] * np.stack([1.6 * np.cos(angle), np.sin(angle)], axis=1)
    boxes = np.array(taken, dtype=float).reshape(-1, 4)
    centres: list[tuple[float, float]] = []
    for anchor, width in zip(anchors, widths, strict=True):
        half = np.array([min(width, area.right - area.left) / 2, height / 2])
        centre = np.clip(anchor + spiral, np.array(area[:2]) + half, np.array(area[2:]) - half)
        low, high = centre - half, centre + half
        met = (low[:, None] < boxes[:, 2:]) & (boxes[:, :2] < high[:, None])
        best = int(
            np.argmin(met.all(axis=2).any(axis=1))
        )  # the first that meets nothing; the anchor itself if none does
        boxes = np.concatenate([boxes, [[*low[best], *high[best]]]])
        centres.append((float(centre[best, 0]), float(centre[best, 1])))
    return centres
