"""What every job that makes shards tells at its end, and how it treats a folder that is already there."""

from dataclasses import dataclass, field
from pathlib import Path

from mmclip.errors import UserError
from mmclip_data.stores.urls import refuse_url

SHOWN_NAMES = 5
OWN_FILES = (
    "*.tar",
    "*.tar.mmidx",
    "nshards.txt",
    "sources.txt",
    "dataset_type.txt",
    "classnames.txt",
    "zeroshot_classification_templates.txt",
    "sizes.json",
    "job.jsonl",
    "dropped.jsonl",
)


@dataclass(frozen=True)
class MakeReport:
    """Counts by name, the files that were written, and everything that was left out, by reason."""

    output: Path
    counts: dict[str, int]
    files: tuple[Path, ...]
    skipped: dict[str, tuple[str, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """The report for a terminal; of each reason's names the first few are shown."""
        lines = [f"wrote {len(self.files)} files to {self.output}"]
        lines += [f"{name}: {count}" for name, count in self.counts.items()]
        for reason, names in self.skipped.items():
            more = f", and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
            lines.append(f"skipped {len(names)} ({reason}): {', '.join(names[:SHOWN_NAMES])}{more}")
        return [*lines, *self.notes]


def prepare_output(output: Path, overwrite: bool) -> None:
    """Make `output` an existing folder without shards of an earlier run.

    With `overwrite`, only files of the kinds that these jobs write are removed: a stale shard would otherwise join the
    new ones, and a mistyped folder must not lose anything else.

    Raises:
        UserError: `output` is a file, or holds anything and `overwrite` is not set.
    """
    refuse_url("output", output)
    if output.exists() and not output.is_dir():
        raise UserError(f"output={output} is a file, expected a folder")
    if output.is_dir() and any(output.iterdir()):
        if not overwrite:
            raise UserError(f"output={output} is not empty; name a new folder, or set overwrite to replace its shards")
        for folder in (output, output / "train", output / "test"):
            for pattern in OWN_FILES:
                for path in folder.glob(pattern):
                    path.unlink()
    output.mkdir(parents=True, exist_ok=True)
