"""`scatter` and `gap_map`: where images and texts lie beside each other."""

from collections.abc import Sequence
from typing import SupportsFloat

import numpy as np
from jaxtyping import Bool, Float, Int

from mmclip_eval.report.figures.canvas import Canvas, canvas
from mmclip_eval.report.figures.labels import Box, fit, number, place, text_width
from mmclip_eval.report.figures.style import GRID, IMAGE, INK, MUTED, SERIES, SURFACE, TEXT, TEXTS, WIDTH
from mmclip_eval.report.figures.thinning import Numbers, sample

MOST_POINTS = 4_000
HEIGHT = 300.0
GAP_HEIGHT = 236.0
NAME = 0.44 * WIDTH
Points = Float[np.ndarray, "point dimension"]
Pair = tuple[Float[np.ndarray, "image 2"], Float[np.ndarray, "text 2"]]
Thumbnail = tuple[SupportsFloat, SupportsFloat, str]


def scatter(
    title: str,
    points: Numbers,
    groups: Numbers,
    group_names: Sequence[str],
    *,
    is_text: Numbers | None = None,
    thumbnails: Sequence[Thumbnail] = (),
    thumbnail_px: SupportsFloat = 22,
    note: str = "",
) -> str:
    """A map of embeddings: a colour a group, its name at its centre, the same scale along both axes.

    Args:
        title: Above the figure, and its accessible name.
        points: Places; rows that are not finite are left out, and of very many a fixed sample is drawn.
        groups: Index into `group_names` of each point; -1 for none.
        group_names: Shortened where needed; colours come round again after eight.
        is_text: Which points are texts; they are drawn as crosses, images as dots.
        thumbnails: (x, y, data URI) of pictures drawn over their points.
        thumbnail_px: Side of a picture.
        note: Under the title.

    Raises:
        ValueError: The arrays differ in length, a group has no name, or a thumbnail is not a `data:image/` URI.
    """
    places, group = np.asarray(points, dtype=np.float64).reshape(-1, 2), np.asarray(groups, dtype=np.int64).reshape(-1)
    crosses = np.zeros(len(places), dtype=bool) if is_text is None else np.asarray(is_text, dtype=bool).reshape(-1)
    _check(places, group, group_names, crosses, thumbnails)
    kept = np.isfinite(places).all(axis=1)
    places, group, crosses = places[kept], group[kept], crosses[kept]
    with canvas(title, HEIGHT, note) as sheet:
        if not len(places):
            return sheet.nothing()
        if crosses.any():
            _kinds(sheet)
        _frame(sheet, places)
        centres = {index: np.median(places[group == index], axis=0) for index in np.unique(group[group >= 0]).tolist()}
        shown = sample(len(places), MOST_POINTS)
        for index in np.unique(group[shown]).tolist():
            _draw_points(
                sheet, places[shown][group[shown] == index], crosses[shown][group[shown] == index], _colour(index)
            )
        taken = _draw_thumbnails(sheet, thumbnails, float(thumbnail_px))
        taken += [box for index in centres for box in _around(sheet.px(places[group == index]))]
        _draw_names(sheet, centres, group_names, taken)
        said = ", ".join(f"{group_names[index]} ({int((group == index).sum()):,})" for index in centres)
        return sheet.svg(f"{len(places):,} points in {len(centres)} groups: {said}.")


def gap_map(
    title: str,
    image_points: Numbers,
    text_points: Numbers,
    *,
    gap: SupportsFloat | None = None,
) -> str:
    """Images and texts in the plane of their first two principal components, with a line from mean to mean.

    Args:
        title: Above the figure, and its accessible name.
        image_points: Embeddings of any dimension; rows that are not finite are left out.
        text_points: The same, of the texts.
        gap: Distance of the means; measured in all dimensions if not given.

    Raises:
        ValueError: The two differ in dimension.
    """
    images, texts = _rows(image_points), _rows(text_points)
    with canvas(title, GAP_HEIGHT, "first two principal components") as sheet:
        if not len(images) or not len(texts):
            return sheet.nothing()
        if images.shape[1] != texts.shape[1]:
            raise ValueError(
                f"gap_map: images have {images.shape[1]} dimensions and texts {texts.shape[1]}; expected as many"
            )
        gap = float(np.linalg.norm(images.mean(axis=0) - texts.mean(axis=0))) if gap is None else float(gap)
        plane = principal_plane(np.concatenate([images, texts]))
        flat = (plane[: len(images)], plane[len(images) :])
        sheet.legend([(f"images ({len(images):,})", IMAGE), (f"texts ({len(texts):,})", TEXTS)])
        _frame(sheet, plane)
        for places, colour in zip(flat, (IMAGE, TEXTS), strict=True):
            shown = places[sample(len(places), MOST_POINTS // 2)]
            _draw_points(sheet, shown, np.zeros(len(shown), dtype=bool), colour, 0.55)
        _draw_gap(sheet, flat, f"gap {number(gap)}")
        return sheet.svg(f"{len(images):,} images and {len(texts):,} texts; the means are {number(gap)} apart.")


def principal_plane(points: Points) -> Float[np.ndarray, "point 2"]:
    """Coordinates along the first two principal axes, each with its sign such that the largest loading is positive."""
    centred = points - points.mean(axis=0)
    few = centred[sample(len(centred), MOST_POINTS)]
    _, _, axes = np.linalg.svd(few, full_matrices=False)
    axes = axes[:2] * np.sign(axes[:2][np.arange(len(axes[:2])), np.abs(axes[:2]).argmax(axis=1)])[:, None]
    flat = centred @ axes.T
    return np.pad(flat, ((0, 0), (0, 2 - flat.shape[1])))


def _rows(points: Numbers) -> Points:
    rows = np.asarray(points, dtype=np.float64)
    rows = rows.reshape(len(rows), -1 if rows.size else 0)
    return rows[np.isfinite(rows).all(axis=1)]


def _check(
    places: Points,
    group: Int[np.ndarray, " point"],
    names: Sequence[str],
    crosses: Bool[np.ndarray, " point"],
    thumbnails: Sequence[Thumbnail],
) -> None:
    if not len(places) == len(group) == len(crosses):
        raise ValueError(f"scatter: {len(places)} points, {len(group)} groups, {len(crosses)} kinds; expected as many")
    if len(group) and group.max() >= len(names):
        raise ValueError(
            f"scatter: a point of group {group.max()} and {len(names)} names; expected a name for each group"
        )
    for _, _, uri in thumbnails:
        if not uri.startswith("data:image/"):
            raise ValueError(
                f"scatter: thumbnail {uri[:40]!r} is not a data:image/ URI; a report holds all that it shows"
            )


def _colour(index: int) -> str:
    return SERIES[index % len(SERIES)] if index >= 0 else MUTED


def _frame(sheet: Canvas, places: Points) -> None:
    """A plain frame around the points; a px is the same distance along both axes."""
    from matplotlib.patches import Rectangle

    sheet.grow(4)
    sheet.frame(1, 1, 1)
    pane = sheet.pane
    width, height = pane.right - pane.left, pane.bottom - pane.top
    low, high = places.min(axis=0), places.max(axis=0)
    margin = 14  # px, so that no dot touches the frame
    scale = max((high[0] - low[0]) / (width - 2 * margin), (high[1] - low[1]) / (height - 2 * margin)) or 1.0
    middle = low / 2 + high / 2
    sheet.axes.set_axis_off()
    sheet.axes.set_xlim(middle[0] - scale * width / 2, middle[0] + scale * width / 2)
    sheet.axes.set_ylim(middle[1] - scale * height / 2, middle[1] + scale * height / 2)
    corner = (pane.left, pane.top)
    sheet.figure.add_artist(Rectangle(corner, width, height, facecolor="none", edgecolor=GRID, transform=sheet.pixels))


def _kinds(sheet: Canvas) -> None:
    """What a dot and a cross stand for."""
    sheet.grow(16)
    y = sheet.top - 10
    sheet.dot(4, y, MUTED, 5)
    sheet.text(12, y + 4, "image", colour=MUTED)
    x = 12 + text_width("image") + 16
    sheet.stroke([(x - 3, y), (x + 3, y)], MUTED, 1.3)
    sheet.stroke([(x, y - 3), (x, y + 3)], MUTED, 1.3)
    sheet.text(x + 8, y + 4, "text", colour=MUTED)


def _draw_points(
    sheet: Canvas, places: Points, crosses: Bool[np.ndarray, " point"], colour: str, alpha: float = 0.7
) -> None:
    """Dots as strokes of no length with round ends: one path for all of a colour, at a dozen bytes a dot."""
    from matplotlib.lines import Line2D

    pixels = sheet.px(places)
    size = 4.2 if len(pixels) < 400 else 3.2
    dots, middles = pixels[~crosses], pixels[crosses]
    arm_x, arm_y = np.array([2.6, 0]), np.array([0, 2.6])
    strokes = [(dots, dots)] if len(dots) else []
    lines = [(middles - arm_x, middles + arm_x), (middles - arm_y, middles + arm_y)] if len(middles) else []
    for ends, width in ((strokes, size), (lines, 1.3)):
        for start, stop in ends:
            broken = np.stack([start, stop, np.full_like(start, np.nan)], axis=1).reshape(-1, 2)
            artist = Line2D(*broken.T, color=colour, linewidth=width, alpha=alpha, transform=sheet.pixels)
            sheet.figure.add_artist(artist)


def _draw_thumbnails(sheet: Canvas, thumbnails: Sequence[Thumbnail], side: float) -> list[Box]:
    from matplotlib.patches import Rectangle

    pane, boxes = sheet.pane, list[Box]()
    for x, y, uri in thumbnails:
        spot = np.array([[float(x), float(y)]])
        if not np.isfinite(spot).all():
            continue
        centre_x, centre_y = sheet.px(spot).tolist()[0]
        left = min(max(centre_x - side / 2, pane.left), pane.right - side)
        top = min(max(centre_y - side / 2, pane.top), pane.bottom - side)
        corner = (left, top + side)
        frame = Rectangle(corner, side, -side, facecolor="none", edgecolor="none", transform=sheet.pixels, zorder=2.5)
        frame.set_gid(sheet.tip(uri, "image"))
        sheet.figure.add_artist(frame)
        boxes.append(Box(left, top, left + side, top + side))
    return boxes


def _around(pixels: Points) -> list[Box]:
    """Room around the points of a group so small that its name would hide it."""
    few = pixels.tolist() if len(pixels) <= 3 else []
    return [Box(x - 4, y - 4, x + 4, y + 4) for x, y in few]


def _draw_names(
    sheet: Canvas, centres: dict[int, Float[np.ndarray, " 2"]], names: Sequence[str], taken: Sequence[Box]
) -> None:
    """Each group's name near its centre, over the points, with a thin line back where it had to move."""
    if not centres:
        return
    words = {index: fit(names[index], NAME, bold=True) for index in centres}
    anchors = sheet.px(np.stack(list(centres.values())))
    widths = [text_width(word, bold=True) + 4 for word in words.values()]
    spots = place(anchors, widths, TEXT + 4, sheet.pane, taken)
    for index, (anchor_x, anchor_y), (x, y) in zip(centres, anchors.tolist(), spots, strict=True):
        if abs(x - anchor_x) > text_width(words[index]) / 2 or abs(y - anchor_y) > 1.5 * TEXT:
            sheet.stroke([(anchor_x, anchor_y), (x, y)], MUTED, 1)
        sheet.text(x, y + 4, words[index], colour=INK, bold=True, align="center", halo=True)


def _draw_gap(sheet: Canvas, flat: tuple[np.ndarray, np.ndarray], label: str) -> None:
    ends = sheet.px(np.stack([places.mean(axis=0) for places in flat])).tolist()
    (left_x, left_y), (right_x, right_y) = ends
    sheet.stroke([tuple(end) for end in ends], INK, 1.6)
    for (x, y), colour in zip(ends, (IMAGE, TEXTS), strict=True):
        sheet.dot(x, y, SURFACE, 14)
        sheet.dot(x, y, colour, 10)
    level = abs(right_y - left_y) < abs(right_x - left_x)
    x, y = (left_x + right_x) / 2, (left_y + right_y) / 2
    short = abs(right_x - left_x) < text_width(label) + 24
    if level and not short:
        slope_room = abs(right_y - left_y) / max(abs(right_x - left_x), 1) * text_width(label) / 2
        sheet.text(x, y - 7 - slope_room, label, bold=True, align="center", halo=True)
    elif level:
        sheet.text(x, min(left_y, right_y) - 14, label, bold=True, align="center", halo=True)
    else:
        beyond = x + 12 + text_width(label) > WIDTH
        sheet.text(
            x - 12 if beyond else x + 12, y + 4, label, bold=True, align="right" if beyond else "left", halo=True
        )
