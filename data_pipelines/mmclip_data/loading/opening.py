"""From the run file's words to an open source, and to the fields in which its samples hold captions."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mmclip.errors import BadSampleError
from mmclip_data.loading.caption_fields import SAMPLES_READ, some_places, spread, usual_fields, with_lines
from mmclip_data.loading.captions import members_of
from mmclip_data.loading.chosen import ChosenSamples, PartOfSource
from mmclip_data.loading.datasets_source import DatasetsConfig, HFDataset
from mmclip_data.loading.mixture import Mixture, MixtureConfig, Part
from mmclip_data.loading.sources import IndexedTars, IndexedTarsConfig, Source, SyntheticConfig
from mmclip_data.loading.streaming import StreamingConfig
from mmclip_data.shards.names import CAPTION_EXTENSIONS

SourceConfig = IndexedTarsConfig | DatasetsConfig | MixtureConfig | StreamingConfig | SyntheticConfig
"""What `data.source` may be."""
SHARDS_COUNTED = 64
"""Shards whose members are counted, evenly spread: the columns of thousands need not be read to find a wrong name."""


@dataclass(frozen=True)
class Opened:
    """A source, and where the captions of its samples are."""

    source: Source
    captions: tuple[str, ...]
    """Empty where none is wanted."""
    notes: tuple[str, ...] = ()
    """What was chosen for the user, to be said at the start."""


def open_source(config: Any, captions: Sequence[str] | None, chosen: ChosenSamples | None = None) -> Opened:
    """Open what a source's configuration names; where `captions` is None they are found where other tools put them.

    With empty `captions` none is read.
    `chosen` are the only samples that it then has.

    Raises:
        UserError: the source cannot be used.
    """
    if chosen is not None:
        opened = open_source(config, captions)
        return replace(opened, source=PartOfSource(opened.source, chosen))
    if isinstance(config, MixtureConfig):
        return _open_mixture(config, captions)
    if captions is not None:
        return Opened(config.build(members_of(captions)), tuple(captions))
    source = config.build({*CAPTION_EXTENSIONS, "json"})
    found = caption_fields(source)
    if isinstance(source, IndexedTars):
        source.restrict(members_of(found))
    return Opened(
        source, found, (f"captions of {name_of(source)} from {', '.join(found)} (data.captions says otherwise)",)
    )


def _open_mixture(config: MixtureConfig, captions: Sequence[str] | None) -> Opened:
    opened = [open_source(part.source, part.captions or captions) for part in config.sources]
    parts = [Part(part.source, part.captions, name_of(part.source)) for part in opened]
    fields = tuple(dict.fromkeys(field for part in opened for field in part.captions))
    return Opened(Mixture(config, parts), fields, tuple(note for part in opened for note in part.notes))


def name_of(source: Source) -> str:
    """The first part of its samples' identities."""
    return source.sample_id(0, 0).partition("/")[0]


def caption_fields(source: Source) -> tuple[str, ...]:
    """Where captions are, by the usual names; `txt` if nowhere."""
    if isinstance(source, HFDataset):
        return source.caption_fields
    if not isinstance(source, IndexedTars):
        return ("txt",)
    indexes = source.indexes
    found = usual_fields([indexes[number] for number in spread(len(indexes), SHARDS_COUNTED)], _some_samples(source))
    return with_lines(found) if _has_lines(source) else found


def _has_lines(source: IndexedTars) -> bool:
    """CLIP_benchmark's layout for retrieval: `dataset_type.txt` says so, and each line of a text is a caption."""
    folder = Path(str(source.tars[0])).parent
    types = [place / "dataset_type.txt" for place in (folder, folder.parent)]
    return any(path.is_file() and path.read_text(errors="replace").strip() == "retrieval" for path in types)


def _some_samples(source: IndexedTars) -> Iterator[dict[str, Any]]:
    for place in some_places(source.shard_sizes.tolist(), SAMPLES_READ):
        try:
            yield source.read(*place)
        except BadSampleError:  # bad samples are counted later, by the census and the run
            continue
