"""Suite files: the evaluation sets that several checkpoints and runs are measured on, in one TOML file.

[[datasets]]
name = "imagenet"
path = "data/imagenet"
tasks = ["zero_shot_classification"]
"""

from pathlib import Path

from mmclip.config import config
from mmclip.errors import UserError
from mmclip_eval.datasets import EvalDatasetConfig
from mmclip_launch.run.tables import from_table, read_toml


@config
class SuiteConfig:
    """What a suite file holds."""

    datasets: tuple[EvalDatasetConfig, ...]
    """Each a `[[datasets]]` table; paths are those of the working directory, as in a run file."""


def read_suite(path: Path) -> tuple[EvalDatasetConfig, ...]:
    """The sets of a suite file.

    Raises:
        UserError: there is no such file, something in it is wrong (one line a fault), or it names no set.
    """
    datasets = from_table(SuiteConfig, read_toml(path), str(path)).datasets
    if not datasets:
        raise UserError(f"{path}: no sets: expected a [[datasets]] table for each, with name and path")
    return datasets
