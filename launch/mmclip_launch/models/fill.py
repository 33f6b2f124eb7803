"""`mmclip models --measure`: measures what no table holds, or writes the table that comes with mmclip."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from mmclip_launch.models.catalogue import Architecture, installed_versions
from mmclip_launch.models.loading import Surroundings, loads
from mmclip_launch.models.records import Measurement, Records, read_records, write_records
from mmclip_launch.models.rows import Row, Tags

Say = Callable[[str], None]


def live_tags() -> Tags:
    """Released weights by architecture and tag, as the installed open_clip lists them (its import takes seconds)."""
    from open_clip.pretrained import get_pretrained_cfg, list_pretrained

    import mmclip  # noqa: F401  # declares what torchvision may lack

    tags: Tags = {}
    for name, tag in list_pretrained():
        tags.setdefault(name, {})[tag] = dict(get_pretrained_cfg(name, tag))
    return tags


def write_table(path: Path, architectures: Sequence[Architecture], say: Say) -> None:
    """Measure everything anew into `path`."""
    measurements = _measure_all(architectures, say)
    write_records(path, Records(versions=installed_versions(), measurements=measurements, tags=live_tags()))
    say(f"{len(measurements)} architectures: {path}")


def fill_cache(path: Path, rows: Sequence[Row], say: Say) -> None:
    """Measure the rows that have no complete measurement, and keep the results in the user's cache file."""
    open_rows = [row for row in rows if row.measurement is None or not row.measurement.complete]
    if not open_rows:
        say(f"all {len(rows)} architectures are measured")
        return
    new = _measure_all([row.architecture for row in open_rows], say)
    versions, before = installed_versions(), read_records(path)
    kept = before.measurements if before.versions == versions else {}
    write_records(path, Records(versions=versions, measurements={**kept, **new}, tags=live_tags()))
    say(f"{len(new)} measured: {path}")
    partial = [name for name, measurement in new.items() if not measurement.complete]
    if partial:
        say(f"image tower only, since a file of the hub could not be read: {', '.join(partial)}")


def measure_row(row: Row, here: Surroundings) -> Row:
    """The row with a measurement made now, and what that says of loading it."""
    measurement = _measure(row.architecture)
    return replace(row, measurement=measurement, loads=loads(row.architecture, measurement, here))


def _measure_all(architectures: Sequence[Architecture], say: Say) -> dict[str, Measurement]:
    found = {}
    for number, architecture in enumerate(architectures, start=1):
        found[architecture.name] = _measure(architecture)
        say(f"{number}/{len(architectures)} {architecture.name}{_outcome(found[architecture.name])}")
    return found


def _measure(architecture: Architecture) -> Measurement:
    from mmclip_launch.models.measure import measure

    logging.getLogger("timm").setLevel(
        logging.ERROR
    )  # it reports weights that it does not load, which nobody asked for
    return measure(architecture.model_cfg, architecture.fingerprint)


def _outcome(measurement: Measurement) -> str:
    if measurement.error is not None:
        return f": {measurement.error}"
    return "" if measurement.complete else ": image tower only"
