"""One architecture in full: its figures, every set of released weights, and the lines to copy."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from mmclip_launch.lines import wrapped
from mmclip_launch.models.loading import hub_files
from mmclip_launch.models.records import Measurement
from mmclip_launch.models.rows import Row

LABEL = 14


def details(row: Row, width: int | None) -> list[str]:
    """Plain lines, wrapped at `width` characters; None stands for a pipe."""
    lines = [f"{row.name} ({'preset of mmclip' if row.architecture.home == 'mmclip' else 'open_clip'})"]
    for label, text in _facts(row):
        lines += wrapped(f"  {label:{LABEL}}", text, width)
    if row.tags:
        lines += _weights(row, width)
    if row.loads.answer != "no":
        lines += ["", "to use it", *_use(row)]
    return lines


def _weights(row: Row, width: int | None) -> list[str]:
    """A line for each tag to copy, with what sets it apart below; what most have in common is said once."""
    prepared = {tag: describe_preparation(settings) for tag, settings in row.tags.items()}
    usual = Counter(prepared.values()).most_common(1)[0][0]
    lines = ["", f"released weights ({len(row.tags)}), fetched at first use"]
    lines += wrapped(
        "  ", f"pictures prepared with {usual}" + (" unless said below" if len(row.tags) > 1 else ""), width
    )
    for tag, settings in row.tags.items():
        # The same rule as at loading: the tag knows its activation, else the architecture does.
        quick = bool(settings.get("quick_gelu", row.architecture.model_cfg.get("quick_gelu", False)))
        parts = [
            *(["quick GELU"] if quick else []),
            *([prepared[tag]] if prepared[tag] != usual else []),
            source(settings),
        ]
        lines.append(f"  open_clip:{row.name}/{tag}")
        lines += wrapped("      ", "; ".join(parts), width)
    return lines


def describe_preparation(settings: Mapping[str, Any]) -> str:
    """Mean, standard deviation, filter and resizing that released weights expect."""
    parts = [
        f"{key} {' '.join(f'{value:.4g}' for value in settings[key])}" for key in ("mean", "std") if key in settings
    ]
    parts += [f"{settings[key]}" for key in ("interpolation", "resize_mode") if settings.get(key)]
    return ", ".join(parts) or "open_clip's defaults"


def source(settings: Mapping[str, Any]) -> str:
    """Where open_clip fetches them: the hub before the address, which it needs only where there is no hub."""
    hub = settings.get("hf_hub", "").rstrip("/")
    return f"hub {hub}" if hub else settings.get("url", "")


def _facts(row: Row) -> Iterator[tuple[str, str]]:
    answer, reason = row.loads.answer, row.loads.reason
    yield "loads", {"hub": "after a download", "?": "not tried"}.get(answer, answer) + (f": {reason}" if reason else "")
    if needed := hub_files(row.architecture.model_cfg):
        yield "hub files", ", ".join(f"{repository}/{file}" for repository, file in needed)
    if row.measurement is not None and row.measurement.error is None:
        yield from _figures(row.measurement)


def _figures(m: Measurement) -> Iterator[tuple[str, str]]:
    if m.total_params is not None and m.image_params is not None and m.text_params is not None:
        scalars = m.total_params - m.image_params - m.text_params
        parts = f"image tower {m.image_params:,}, text tower {m.text_params:,}, logit scale and bias {scalars}"
        yield "parameters", f"{m.total_params:,}: {parts}"
    elif m.image_params is not None:
        yield "parameters", f"image tower {m.image_params:,}; the text tower's configuration is on the hub"
    yield "FLOPs", _flops(m)
    if m.image_size is not None:
        yield "picture", f"{m.image_size[0]} x {m.image_size[1]} px"
    if m.context_length is not None:
        cut = "; training and scoring run only as many as the longest caption has" if m.trims_text else ""
        yield "caption", f"{m.context_length} tokens{cut}"
    yield "embedding", str(m.embed_dim)
    if m.batch_norm:
        yield "batch norm", "yes: over the batch of all processes; refused under accumulation"


def _flops(m: Measurement) -> str:
    image, text = (
        f"{value / 1e9:,.2f} G" if value is not None else "unknown" for value in (m.image_flops, m.text_flops)
    )
    note = "a multiply-add counted as two"
    if m.total_flops is None:
        return f"picture {image}; {note}"
    return f"{m.total_flops / 1e9:,.2f} G a pair: picture {image}, caption of full length {text}; {note}"


def _use(row: Row) -> list[str]:
    weights = f"open_clip:{row.name}/{next(iter(row.tags))}" if row.tags else None
    lines = [("from nothing", f"--model.arch {row.name}")]
    lines += [("from weights", f"--model.init {weights}")] if weights else []
    lines += [("in a run file", "[model]"), ("", f'arch = "{row.name}"')]
    lines += (
        [("", f'init = "{weights}" # in place of arch'), ("from Python", f'mmclip.load("{weights}")')]
        if weights
        else []
    )
    return [f"  {label:{LABEL}}{text}" for label, text in lines]
