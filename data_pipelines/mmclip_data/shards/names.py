"""Which sample a tar member belongs to, by WebDataset's rule, and where that rule has joined what nobody meant to join."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")
CAPTION_EXTENSIONS = ("txt", "text", "caption")


def split_name(name: str) -> tuple[str, str] | None:
    """Key and lower-cased extension of a tar member by WebDataset's rule, or None for a name that belongs to no sample.

    The key is the path up to the first dot of the file name, so `a.b/im.v1.JPG` gives `("a.b/im", "v1.jpg")`.
    """
    folder, slash, base = name.rpartition("/")
    stem, dot, extension = base.partition(".")
    if not stem or not dot or _is_metadata(name):
        return None
    return folder + slash + stem, extension.lower()


def distinct_names(paths: Sequence[str]) -> list[str]:
    """The file name of each path, and where two have the same, as many of its folders as tell them apart."""
    parts = [path.split("/") for path in paths]
    depths = [1] * len(parts)
    while True:
        names = ["/".join(part[-depth:]) for part, depth in zip(parts, depths, strict=True)]
        counts = Counter(names)
        deeper = [
            number for number, name in enumerate(names) if counts[name] > 1 and depths[number] < len(parts[number])
        ]
        if not deeper:
            return names
        for number in deeper:
            depths[number] += 1


def _is_metadata(name: str) -> bool:
    """WebDataset skips a top-level folder or file whose name stands between double underscores."""
    if not name.startswith("__"):
        return False
    top = name.partition("/")[0]
    return len(top) >= 4 and top.endswith("__")


def may_merge(extensions: Iterable[str]) -> bool:
    """Whether pictures under dotted extensions (`v1.0.jpg`) occur at all, so that `merged_names` is worth its time."""
    return any("." in extension and _last(extension) in IMAGE_EXTENSIONS for extension in extensions)


def merged_names(samples: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Keys under which several samples seem to have met, with what the names hold between first and last dot.

    `im.v1.jpg` and `im.v2.jpg` share the key `im`. That is right where they are two views of a sample, and then most
    samples of the shard have the same views; it is wrong where a file name simply held a dot. `samples` maps each key to
    its extensions.
    """
    middles = {key: _middles(extensions) for key, extensions in samples.items()}
    common = Counter(tuple(found) for found in middles.values())
    enough = max(2, -(-len(samples) // 2))
    return {key: found for key, found in middles.items() if len(found) > 1 and common[tuple(found)] < enough}


def _middles(extensions: Sequence[str]) -> list[str]:
    """The different beginnings of dotted extensions that stand before a picture's own, `""` for a plain picture.

    Beside a plain picture another counts only with a further member of its own: `thumb.jpg` alone is an extra.
    """
    members = Counter(extension.rpartition(".")[0] for extension in extensions)
    found = {extension.rpartition(".")[0] for extension in extensions if _last(extension) in IMAGE_EXTENSIONS}
    if "" in found:
        found = {middle for middle in found if not middle or members[middle] > 1}
    return sorted(found)


def _last(extension: str) -> str:
    return extension.rpartition(".")[2]
