"""Suite files: the evaluation sets that several checkpoints and runs are measured on, in one TOML file.

[[datasets]]
name = "imagenet"
path = "data/imagenet"
tasks = ["zero_shot_classification"]
"""

from pathlib import Path

import mmclip_eval
from mmclip.config import config
from mmclip.errors import UserError
from mmclip_eval.datasets import EvalDatasetConfig
from mmclip_launch.run.tables import from_table, read_toml


@config
class SuiteConfig:
    """What a suite file holds."""

    datasets: tuple[EvalDatasetConfig, ...]
    """Each a `[[datasets]]` table; paths are those of the working directory, as in a run file."""


PACKAGED = "packaged:"


def suite_path(name: str) -> Path:
    """The file of a suite: `packaged:NAME` is one of those that come with mmclip.

    Raises:
        UserError: there is no packaged suite of the name.
    """
    if not name.startswith(PACKAGED):
        return Path(name)
    folder = Path(mmclip_eval.__file__).parent / "suites"
    path = folder / f"{name.removeprefix(PACKAGED)}.toml"
    if not path.is_file():
        raise UserError(
            f"no suite {name!r}: expected one of {', '.join(PACKAGED + one.stem for one in folder.glob('*.toml'))}"
        )
    return path


def read_suite(path: Path) -> tuple[EvalDatasetConfig, ...]:
    """The sets of a suite file.

    Raises:
        UserError: there is no such file, something in it is wrong (one line a fault), or it names no set.
    """
    datasets = from_table(SuiteConfig, read_toml(path), str(path)).datasets
    if not datasets:
        raise UserError(f"{path}: no sets: expected a [[datasets]] table for each, with name and path")
    return datasets
