"""The views that objectives need, as the loader makes them: what each style draws, and what a run file may say instead."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mmclip.errors import UserError
from mmclip.objectives.base import Style, ViewNeed
from mmclip.preprocess import ImageSpec
from mmclip_data.loading.augment import AugmentConfig, ViewConfig

LOCAL_SHARE = 3 / 7
"""Side of small crops beside the model's: 96 of 224 (SwAV, DINO)."""
COLOURS = {"brightness": 0.4, "contrast": 0.4, "hue": 0.1, "colour": 0.8, "grayscale": 0.2}
BLUR = {"blur_sigma": (0.1, 2.0), "blur_side": 224}
SETTINGS: Mapping[Style, Mapping[str, object]] = {
    # The crop alone: what meets a caption.
    "weak": {},
    # MAE (He et al. 2022, section 4): a model that has to fill in three quarters needs no further riddle.
    "crop": {"flip": 0.5},
    # MoCo v2 (Chen et al. 2020, section 3) and SLIP (Mu et al. 2022, section 3): SimCLR's at half its strength.
    "strong": {"flip": 0.5, **COLOURS, "saturation": 0.4, "blur": 0.5, **BLUR},
    # BYOL (Grill et al. 2020, table 6): one always blurred, the other hardly, and solarised.
    "crop_a": {"flip": 0.5, **COLOURS, "saturation": 0.2, "blur": 1.0, **BLUR},
    "crop_b": {"flip": 0.5, **COLOURS, "saturation": 0.2, "blur": 0.1, **BLUR, "solarise": 0.2},
    # DINO (Caron et al. 2021, appendix A): the filter is as wide in pixels as that of a large crop.
    "local": {"flip": 0.5, **COLOURS, "saturation": 0.2, "blur": 0.5, **BLUR, "blur_side": 96},
}
"""What happens to a view of each style besides its crop."""
DRAWING = ("copies", "style", "size", "crop_area")
"""Fields of a need that say how its views are drawn; the others say what is looked at of them."""


@dataclass(frozen=True)
class DrawnViews:
    """All further views of each picture of a run."""

    configs: tuple[ViewConfig, ...]
    """In place of `data.views`: these first, so that their draws stay, then what objectives need besides."""
    places: Mapping[str, tuple[int, ...]]
    """By the name of a need, the places of its copies in `ImageTextBatch.views`."""


def augmentation(style: Style, crop_area: tuple[float, float]) -> AugmentConfig:
    """What may happen to a view of a style."""
    return AugmentConfig(crop_area=crop_area, **SETTINGS[style])  # pyright: ignore[reportArgumentType]


def needed_views(
    needs: Sequence[ViewNeed], spec: ImageSpec, patch: tuple[int, int] | None, given: Sequence[ViewConfig] = ()
) -> DrawnViews:
    """The views that all objectives of a run need, each name once, beside those that its file asks for (`data.views`).

    A view of the file that has the name of a need says how that is drawn. `patch` is (height, width) of the image tower's
    patches in pixels, of which a view is a whole number.

    Raises:
        UserError: needs of one name differ, or the file's views do not fit the needs or the patches.
    """
    distinct = _distinct(needs)
    own = _refuse_strangers(given, distinct)
    for name, view in own.items():
        if view.copies != distinct[name].copies:
            raise UserError(
                f"data.views: {name!r} has copies={view.copies}, and the objective needs {distinct[name].copies} views of that "
                f"name: set copies = {distinct[name].copies}, or leave {name!r} out and have it drawn as the objective says"
            )
        if view.size is not None or view.share is not None:  # the model's own size is its own affair
            _refuse_cut_patches(f"data.views: {name!r}", view.sides(spec), patch)
    added = [_drawn(need, spec, patch) for need in distinct.values() if need.name not in own]
    configs, places, start = (*given, *added), {}, 0
    for view in configs:
        if view.name:
            places[view.name] = tuple(range(start, start + view.copies))
        start += view.copies
    return DrawnViews(configs, places)


def _distinct(needs: Sequence[ViewNeed]) -> dict[str, ViewNeed]:
    found: dict[str, ViewNeed] = {}
    for need in needs:
        if not need.name or need.copies < 1:
            raise UserError(
                f"objective: views {need.name!r}, copies={need.copies}: expected a name and at least 1 copy"
            )
        first = found.setdefault(need.name, need)
        for field in DRAWING:
            ours, theirs = getattr(first, field), getattr(need, field)
            if ours != theirs:
                raise UserError(
                    f"objective: two need views named {need.name!r}, one with {field}={ours!r}, one with {field}={theirs!r}: "
                    "views of one name are shared, so give one of them another name, or draw them alike"
                )
    return found


def _refuse_strangers(given: Sequence[ViewConfig], needed: Mapping[str, ViewNeed]) -> dict[str, ViewConfig]:
    """The file's views by name."""
    own: dict[str, ViewConfig] = {}
    for view in given:
        if view.name in own:
            raise UserError(f"data.views: {view.name!r} stands there twice: raise its copies, or rename one")
        if not view.name:
            continue
        if view.name not in needed:
            names = ", ".join(map(repr, needed)) or "none"
            raise UserError(
                f"data.views: no objective needs views named {view.name!r} (needed: {names}): correct the name, or leave it "
                "out for a view of your own"
            )
        own[view.name] = view
    return own


def _drawn(need: ViewNeed, spec: ImageSpec, patch: tuple[int, int] | None) -> ViewConfig:
    augment = augmentation(need.style, need.crop_area)
    if need.size is None and need.style == "local":
        view = ViewConfig(name=need.name, copies=need.copies, share=LOCAL_SHARE, patch=patch or (1, 1), augment=augment)
    else:
        view = ViewConfig(name=need.name, copies=need.copies, size=need.size, augment=augment)
    if need.size is not None:
        _refuse_cut_patches(f"objective: views {need.name!r}", view.sides(spec), patch)
    return view


def _refuse_cut_patches(where: str, sides: tuple[int, int], patch: tuple[int, int] | None) -> None:
    for side, unit in zip(sides, patch or (1, 1), strict=True):
        if side % unit:
            below = side // unit * unit
            raise UserError(
                f"{where}, size={side}: the image tower has patches of {unit} pixels, and a view is a whole number of them; "
                f"nearest: {below or unit}, {below + unit}"
            )
