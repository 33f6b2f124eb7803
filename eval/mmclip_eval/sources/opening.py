"""From the path of a set to its samples: which of the known forms it has, and what it says of itself."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import MISSING, fields
from itertools import islice
from pathlib import Path

from mmclip.errors import UserError
from mmclip_eval.sources import clip_benchmark, coop, folder, hf, hub, plain_shards, selection_file, table
from mmclip_eval.sources.config import SourceConfig
from mmclip_eval.sources.form import Form, OpenedSamples

FORMS: tuple[Form, ...] = (
    hub.FORM,
    clip_benchmark.FORM,
    coop.FORM,
    selection_file.FORM,
    table.FORM,
    hf.FORM,
    plain_shards.FORM,
    folder.FORM,
)
"""The first that recognises a path opens it; a new form is one file and one name here."""
MAX_LOOK = 10_000


def open_source(config: SourceConfig) -> OpenedSamples:
    """Index a set of whatever form.

    Raises:
        UserError: the form cannot be told, an option has no meaning for it, or the set cannot be read.
        StoreError: a store does not answer.
    """
    form = form_of(config)
    for name in _own_options(FORMS):
        default = next(field.default for field in fields(config) if field.name == name)  # pyright: ignore
        if name not in form.options and default is not MISSING and getattr(config, name) != default:
            where = ", ".join(other.name for other in FORMS if name in other.options)
            raise UserError(
                f"{config.name}: {name}={getattr(config, name)!r} has no meaning for {config.path}, which is read as "
                f"{form.name}; it is an option of: {where}"
            )
    return form.open(config)


def form_of(config: SourceConfig) -> Form:
    """The form of a set.

    Raises:
        UserError: it is none of those that are read.
    """
    found = next((form for form in FORMS if form.recognises(config)), None)
    if found is None:
        accepted = "".join(f"\n  {form.looks}" for form in FORMS)
        raise UserError(
            f"{config.name}: {config.path} is no evaluation set that is known: it {_seen(Path(config.path))}; accepted "
            f"are{accepted}"
        )
    return found


def _own_options(forms: Sequence[Form]) -> list[str]:
    return list(dict.fromkeys(option for form in forms for option in form.options))


def _seen(place: Path) -> str:
    """What stands there, in words."""
    if place.is_file():
        return f"is a file of {place.stat().st_size:,} bytes that ends in {place.suffix or 'nothing'}"
    entries = sorted(islice(place.iterdir(), MAX_LOOK))
    folders = [entry.name for entry in entries if entry.is_dir()]
    endings = Counter(entry.suffix.lower() or "no ending" for entry in entries if not entry.is_dir())
    told = [f"{count} of {ending}" for ending, count in endings.most_common(5)]
    more = ", ..." if len(folders) > 5 else ""
    parts = [f"the folders {', '.join(folders[:5])}{more}"] * bool(folders) + [f"files: {', '.join(told)}"] * bool(told)
    return f"holds {' and '.join(parts) or 'nothing'}"
