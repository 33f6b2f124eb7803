"""What a run stands for, where that is not its newest checkpoint."""

import json
from dataclasses import dataclass
from pathlib import Path

from mmclip.errors import UserError

RESULT_FILE = "result.json"
"""In a run folder whose result is not its newest checkpoint: which folder is, and why."""


@dataclass(frozen=True)
class RunResult:
    """Which weights a run stands for, where they are not its newest."""

    folder: Path
    why: str


def record_result(run: Path, result: RunResult) -> None:
    """Let `load` of the run take these weights from now on."""
    path = run / RESULT_FILE
    temporary = path.with_name(path.name + ".tmp")
    table = {"folder": str(result.folder.relative_to(run)), "why": result.why}
    temporary.write_text(json.dumps(table, indent=1) + "\n")
    temporary.replace(path)


def result_of(run: Path) -> RunResult | None:
    """What `record_result` recorded; None where a run's newest checkpoint is its result.

    Raises:
        UserError: the file is not what was written.
    """
    path = run / RESULT_FILE
    if not path.is_file():
        return None
    try:
        table = json.loads(path.read_text())
        result = RunResult(run / str(table["folder"]), str(table["why"]))
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is not what mmclip writes ({error}): remove it to take the newest checkpoint"
        ) from error
    if not result.folder.resolve().is_relative_to(run.resolve()):
        raise UserError(f"{path} leads out of the run, to {table['folder']!r}: remove it to take the newest checkpoint")
    return result
