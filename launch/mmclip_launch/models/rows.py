"""What the listing shows of each architecture, and how words and order choose among them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mmclip.errors import UserError
from mmclip.near import nearest
from mmclip_launch.models.catalogue import Architecture, natural_key
from mmclip_launch.models.loading import Loads, Surroundings, loads
from mmclip_launch.models.records import Measurement, Records

Tags = dict[str, dict[str, dict[str, Any]]]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One architecture with all that is known of it here."""

    architecture: Architecture
    measurement: Measurement | None
    """None where this model_cfg was never measured."""
    loads: Loads
    tags: dict[str, dict[str, Any]]
    """Released weights; after a search, those that match."""

    @property
    def name(self) -> str:
        """What `model.arch` takes."""
        return self.architecture.name


def find_measurement(architecture: Architecture, stores: Sequence[Records]) -> Measurement | None:
    """The first complete measurement of exactly this model_cfg, else the first incomplete one."""
    found = [store.measurements.get(architecture.name) for store in stores]
    same = [m for m in found if m is not None and m.cfg == architecture.fingerprint]
    return next((m for m in same if m.complete), same[0] if same else None)


def build_rows(
    architectures: Sequence[Architecture], stores: Sequence[Records], tags: Tags, here: Surroundings
) -> list[Row]:
    """One row an architecture, in the order given."""
    rows = []
    for architecture in architectures:
        measurement = find_measurement(architecture, stores)
        rows.append(
            Row(
                architecture=architecture,
                measurement=measurement,
                loads=loads(architecture, measurement, here),
                tags=tags.get(architecture.name, {}),
            )
        )
    return rows


def search(rows: Sequence[Row], words: Sequence[str]) -> list[Row]:
    """Rows of which the name, or `NAME/TAG` for one tag, holds every word, whatever the case; with the tags that match.

    All words must meet in one place: `openai laion2b` finds nothing, since no weights are both.

    Raises:
        UserError: nothing matches; the message holds the nearest names.
    """
    wanted = [word.lower().removeprefix("open_clip:") for word in words]
    hits = []
    for row in rows:
        matching = {tag: settings for tag, settings in row.tags.items() if _holds(f"{row.name}/{tag}", wanted)}
        if _holds(row.name, wanted):
            hits.append(row)
        elif matching:
            hits.append(replace(row, tags=matching))
    if not hits:
        near = _nearest(rows, words)
        tail = f"nearest: {', '.join(near)}" if near else "`mmclip models --all` lists every name"
        raise UserError(f"no architecture or weights match {' '.join(words)!r}; {tail}")
    return hits


def exact(rows: Sequence[Row], words: Sequence[str]) -> Row | None:
    """The row whose name is the only word, or whose `NAME/TAG` is; then with this tag alone."""
    if len(words) != 1:
        return None
    name, _, tag = words[0].lower().removeprefix("open_clip:").partition("/")
    for row in rows:
        if row.name.lower() == name:
            tags = {t: settings for t, settings in row.tags.items() if t.lower() == tag}
            if not tag:
                return row
            return replace(row, tags=tags) if tags else None
    return None


def _size(figure: Callable[[Measurement], int | None]) -> Callable[[Row], Any]:
    def key(row: Row) -> Any:
        value = figure(row.measurement) if row.measurement is not None else None
        return (value is None, value or 0, natural_key(row.name))  # the unknown stands last

    return key


ORDERS: dict[str, Callable[[Row], Any] | None] = {
    "name": None,
    "params": _size(lambda measurement: measurement.total_params),
    "flops": _size(lambda measurement: measurement.total_flops),
}
"""What `--sort` takes; by name is the order of the catalogue."""


def sort(rows: Sequence[Row], order: str) -> list[Row]:
    """Smallest first; what is not known stands last."""
    key = ORDERS[order]
    return list(rows) if key is None else sorted(rows, key=key)


def _holds(text: str, words: Sequence[str]) -> bool:
    return all(word in text.lower() for word in words)


def _nearest(rows: Sequence[Row], words: Sequence[str]) -> list[str]:
    known = {name.lower(): name for row in rows for name in (row.name, *row.tags)}
    asked = "-".join(words).lower().removeprefix("open_clip:").partition("/")[0]
    return [known[name] for name in nearest(asked, known)]
