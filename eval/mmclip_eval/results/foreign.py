"""Result files of others: CLIP_benchmark's JSON and its benchmark.csv, DataComp's eval_results.jsonl."""

import csv
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmclip.errors import UserError
from mmclip_eval.results.record import Record, Value

WORD_KEYS = ("dataset", "model", "pretrained", "task", "language")
SIX_KEYS = (*WORD_KEYS, "metrics")
DATACOMP_FILE = "eval_results.jsonl"
WORDS = frozenset({"dataset", "model", "pretrained", "task", "language", "model_fullname", "classnames", "templates"})
"""Columns of benchmark.csv that are no metrics."""
MAIN_METRIC = "main_metric"
"""DataComp's second name for one of the metrics."""


def clip_benchmark_record(content: Mapping[str, Any], path: Path) -> Record:
    """A file that `clip_benchmark eval` wrote; its NaN becomes None.

    Raises:
        UserError: a metric is neither a number nor a text.
    """
    dataset, model, pretrained, task, language = (str(content[key] or "") for key in WORD_KEYS)
    return Record(
        dataset,
        task,
        model,
        pretrained,
        language,
        metrics={name: _value(value, f"{path}, {name}") for name, value in content["metrics"].items()},
        origin="CLIP_benchmark",
        path=str(path),
    )


def benchmark_csv(path: Path) -> list[Record]:
    """The rows of a table that `clip_benchmark build` or `mmclip results --csv` wrote.

    Raises:
        UserError: it lacks one of CLIP_benchmark's columns.
    """
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        missing = [name for name in WORD_KEYS if name not in (reader.fieldnames or ())]
        if missing:
            raise UserError(
                f"{path}: no column {', '.join(missing)}: expected a table that `clip_benchmark build` or `mmclip "
                "results --csv` wrote"
            )
        return [_row(row, path) for row in reader]


def _row(row: Mapping[str, Any], path: Path) -> Record:
    # Ours names facts and ends of intervals apart from the metrics, by a dot.
    plain = {name: text for name, text in row.items() if name and "." not in name and text not in (None, "")}
    facts = {name.removeprefix("mmclip."): text for name, text in row.items() if name.startswith("mmclip.") and text}
    metrics = {name: _number(text) for name, text in plain.items() if name not in WORDS}
    variant = str(facts.pop("variant", ""))
    dataset, model, pretrained, task, language = (row[key] or "" for key in WORD_KEYS)
    return Record(
        dataset,
        task,
        model,
        pretrained,
        language,
        metrics={name: value for name, value in metrics.items() if not isinstance(value, str)},
        origin="CLIP_benchmark",
        path=str(path),
        facts=facts,
        variant=variant,
    )


def datacomp_records(path: Path) -> list[Record]:
    """The tasks of DataComp's evaluation; the file does not name the model, so that its folder does.

    Raises:
        UserError: a line is none of DataComp's.
    """
    records = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            content = json.loads(line)
            key, metrics = content["key"], content["metrics"]
            values = {name: _value(value, f"{path}, line {number}, {name}") for name, value in metrics.items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{path}, line {number}: expected an object with `key` and `metrics`, as DataComp writes it: {error!r}"
            ) from error
        model = path.resolve().parent.name
        task = _datacomp_task(values)
        records.append(Record(str(key), task, model, "", "en", _without_main(values), "DataComp", str(path)))
    return records


def _datacomp_task(metrics: Mapping[str, Value]) -> str:
    if any(name.startswith(("image_retrieval", "text_retrieval")) for name in metrics):
        return "zeroshot_retrieval"
    return "zeroshot_classification" if "acc1" in metrics else "datacomp"


def _without_main(metrics: Mapping[str, Value]) -> dict[str, Value]:
    """Without the second name of a figure that stands there under its own."""
    others = {name: value for name, value in metrics.items() if name != MAIN_METRIC}
    main = metrics.get(MAIN_METRIC)
    return others if main is None or main in others.values() else dict(metrics)


def _value(value: Any, where: str) -> Value:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, int | float | str):
        return value
    raise UserError(f"{where}: expected a number, got {value!r:.80}")


def _number(text: str) -> Value:
    try:
        value = float(text)
    except ValueError:
        return {"True": True, "False": False}.get(text, text)
    return value if math.isfinite(value) else None
