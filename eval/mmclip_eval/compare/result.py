"""A comparison as strict JSON: every figure, its anchors, its rule, and the pictures that flipped by their names."""

import math
from dataclasses import asdict
from typing import Any

from mmclip_eval.compare.behaviour.behaviour import Behaviour
from mmclip_eval.compare.behaviour.seen import Seen
from mmclip_eval.compare.comparison import ComparedSet, Comparison
from mmclip_eval.compare.representation.panel import Panel
from mmclip_eval.results.result import recorded_versions

VERSION = 1
"""Of the file's form."""


def to_json(found: Comparison) -> dict[str, Any]:
    """Plain values; no number in it is infinite or none."""
    words = {id(one.reading): one for one in found.verdict.judged}
    figures = []
    for reading in found.readings:
        one = words.get(id(reading))
        rule = None if one is None else {**asdict(one.rule), "verdict": one.word}
        figures.append({**_finite(asdict(reading)), "rule": rule})
    return {
        "version": VERSION,
        "a": found.a,
        "b": found.b,
        "against": list(found.against),
        "verdict": found.verdict.word,
        "reasons": list(found.verdict.reasons),
        "figures": figures,
        "sets": [_set(one) for one in found.sets],
        "layers": [_panel(panel) for panel in found.panels],
        "notes": list(found.notes),
        "versions": dict(recorded_versions()),
        "maps": None if found.maps is None else found.maps.to_json(),
        "units": None if found.units is None else found.units.to_json(),
        "contrasim": None if found.contrasim is None else found.contrasim.to_json(),
    }


def _finite(table: dict[str, Any]) -> dict[str, Any]:
    """Strict JSON has no nan: a figure that is none is null."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in table.items()
    }


def _set(one: ComparedSet) -> dict[str, Any]:
    return {
        "dataset": one.behaviour.dataset,
        "samples": one.behaviour.samples,
        "fingerprint": one.a.dataset.samples.fingerprint,
        "flipped": _flipped(one.behaviour, one.a, one.b),
        "groups": _groups(one.behaviour),
    }


def _flipped(found: Behaviour, a: Seen, b: Seen) -> list[dict[str, Any]]:
    if found.flips is None:
        return []
    names, samples = a.dataset.labelled.class_names, a.dataset.samples
    rows = [("lost", row) for row in found.flips.lost.tolist()] + [("won", row) for row in found.flips.won.tolist()]
    return [
        {
            "sample": samples.sample_id(row),
            "flip": kind,
            "class": names[int(a.dataset.labelled.labels[row])],
            "a": names[int(a.said.predicted[row])],
            "b": names[int(b.said.predicted[row])],
        }
        for kind, row in rows
    ]


def _groups(found: Behaviour) -> list[dict[str, Any]]:
    if found.by_group is None:
        return []
    return [
        {
            "group": row.name,
            "samples": row.samples,
            "before": row.accuracy.before,
            "after": row.accuracy.after,
            "low": row.accuracy.low,
            "high": row.accuracy.high,
            "agreement": row.agreement,
        }
        for row in found.by_group.rows
    ]


def _panel(panel: Panel) -> dict[str, Any]:
    return {
        "tower": panel.tower,
        "rows": panel.rows,
        "a": list(panel.layers),
        "b": list(panel.other_layers),
        "cka": [[value if math.isfinite(value) else None for value in row] for row in panel.cka.tolist()],
        "pairs": [
            {
                "a": pair.names[0],
                "b": pair.names[1],
                "figures": {name: _finite(asdict(found)) for name, found in pair.figures.items()},
                "notes": dict(pair.notes),
            }
            for pair in panel.pairs
        ],
    }
