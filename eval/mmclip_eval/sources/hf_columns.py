"""What each column of a `datasets` data set means: by its type where that says it, else by its name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmclip.errors import UserError
from mmclip_data.pipelines.columns import LABEL_NAMES, NUMBERED_PICTURES, PICTURE_NAMES, choose, choose_captions


@dataclass(frozen=True)
class HFColumns:
    """Columns by their part; every column that is not a picture is a key of the member `json`, too."""

    pictures: tuple[str, ...]
    captions: tuple[str, ...]
    label: str | None
    classes: Mapping[str, tuple[str, ...]]
    """Names of the classes of each column of class labels, or of lists of them."""
    several_labels: tuple[str, ...]
    """Columns of lists of class labels."""
    binary: tuple[str, ...]
    """Columns of bytes that are no pictures: members of their own, as `npy` of a tar is."""

    @property
    def own_classes(self) -> tuple[str, ...] | None:
        """The names that the indices of the label stand for."""
        return self.classes.get(self.label) if self.label is not None else None


def columns_of(features: Mapping[str, Any], image_column: str | None, where: str) -> HFColumns:
    """Tell them.

    Raises:
        UserError: it cannot be told which column holds the pictures.
    """
    import datasets

    pictures = _pictures(features, image_column, where, datasets.Image)
    heavy = (datasets.Image, datasets.Audio, datasets.Video)
    rest = [name for name in features if name not in pictures and not isinstance(features[name], heavy)]
    classes = {name: names for name in rest if (names := _class_names(features[name])) is not None}
    single = [name for name in classes if isinstance(features[name], datasets.ClassLabel)]
    texts = [name for name in rest if _dtype(features[name]) in ("string", "large_string") and "." not in name]
    captions = choose_captions((), rest, texts, where, required=False)
    kinds = ("int", "uint", "string")
    plain = [
        name
        for name in rest
        if name not in captions
        and isinstance(features[name], datasets.Value)
        and _dtype(features[name]).startswith(kinds)
    ]
    label = single[0] if len(single) == 1 else None
    label = label or choose("label", None, single or plain, LABEL_NAMES, where, required=False)
    binary = [
        name
        for name in rest
        if isinstance(features[name], datasets.Value) and _dtype(features[name]) in ("binary", "large_binary")
    ]
    several = tuple(name for name in classes if name not in single)
    return HFColumns(pictures, captions, label, classes, several, tuple(binary))


def _pictures(features: Mapping[str, Any], asked: str | None, where: str, image: type) -> tuple[str, ...]:
    names = list(features)
    found = [name for name in names if isinstance(features[name], image)]
    if asked is None and len(found) > 1:
        if all(NUMBERED_PICTURES.fullmatch(name) for name in found):
            return tuple(found)
        usual = choose("image_column", None, found, PICTURE_NAMES, where, required=False)
        if usual is None:
            raise UserError(f"{where}: several columns hold pictures ({', '.join(found)}): name one by image_column")
        return (usual,)
    chosen = choose("image_column", asked or (found[0] if found else None), names, PICTURE_NAMES, where)
    assert chosen is not None, "a required column is found or refused"
    return (chosen,)


def _class_names(feature: Any) -> tuple[str, ...] | None:
    import datasets

    inner = getattr(feature, "feature", feature)
    return tuple(inner.names) if isinstance(inner, datasets.ClassLabel) and inner.names else None


def _dtype(feature: Any) -> str:
    """Of a value, or of the values of a list."""
    return str(getattr(getattr(feature, "feature", feature), "dtype", ""))


def class_name(names: Sequence[str], value: Any) -> Any:
    """The name of a class by its number, or of each of a list; None where it has none."""
    if isinstance(value, list):
        return [class_name(names, entry) for entry in value]
    return names[value] if isinstance(value, int) and 0 <= value < len(names) else None
