"""Result files from anywhere, read as records: ours, CLIP_benchmark's and DataComp's."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmclip.errors import UserError
from mmclip_eval.results.foreign import (
    DATACOMP_FILE,
    SIX_KEYS,
    benchmark_csv,
    clip_benchmark_record,
    datacomp_records,
)
from mmclip_eval.results.record import Record
from mmclip_eval.results.result import record_of

CSV_FILE = "benchmark.csv"


@dataclass(frozen=True)
class Collected:
    """What was found under some paths."""

    records: tuple[Record, ...]
    others: tuple[str, ...]
    """JSON files in the folders that are no results."""


def collect(paths: Iterable[Path]) -> Collected:
    """Read files, and of folders every `*.json`, `benchmark.csv` and `eval_results.jsonl` at any depth, in sorted order.

    A JSON file in a folder that is no result, such as a model's configuration, is left out and named; one that was given
    itself is refused.

    Raises:
        UserError: a path is not there, a file is no result, or none of all is one.
    """
    records: list[Record] = []
    others: list[str] = []
    given = list(paths)
    for path in given:
        if path.is_dir():
            for file in sorted(path.rglob("*")):
                if file.is_file() and (file.suffix == ".json" or file.name in (CSV_FILE, DATACOMP_FILE)):
                    found = _read(file)
                    records += found or []
                    others += [str(file)] if found is None else []
        elif path.is_file():
            records += _read(path) or _refuse(path)
        else:
            raise UserError(f"{path} does not exist: expected a result file, or a folder of them")
    if not records:
        looked = f"; {len(others)} JSON files there are something else" if others else ""
        raise UserError(f"no results in {', '.join(map(str, given))}{looked}: `mmclip eval CHECKPOINT` writes some")
    return Collected(tuple(records), tuple(others))


def _read(path: Path) -> list[Record] | None:
    """The records of a file; None where it is something else."""
    if path.suffix == ".csv":
        return benchmark_csv(path)
    if path.suffix == ".jsonl":
        return datacomp_records(path)
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON: {error}") from error
    if (
        not isinstance(content, Mapping)
        or not set(SIX_KEYS) <= set(content)
        or not isinstance(content["metrics"], Mapping)
    ):
        return None
    return [record_of(path) if "schema_version" in content else clip_benchmark_record(content, path)]


def _refuse(path: Path) -> list[Record]:
    raise UserError(
        f"{path} is no result: expected a JSON file with {', '.join(SIX_KEYS)}, as `mmclip eval` and `clip_benchmark eval` "
        f"write it, {CSV_FILE} or DataComp's {DATACOMP_FILE}"
    )
