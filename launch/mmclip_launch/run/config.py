"""`RunConfig`: everything that one training run is, in one TOML file.

Precedence: the defaults below, then the file, then the flags. The resolved file stands in the run folder.
"""

import contextlib
import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmclip.config import config
from mmclip_launch.flags import parse_config
from mmclip_launch.run.conflicts import refuse_conflicts
from mmclip_launch.run.fields import EvaluationConfig, RunFields
from mmclip_launch.run.home import at_home
from mmclip_launch.run.recipe.retained_config import RetainedConfig
from mmclip_launch.run.scoring.suite_files import read_suite, suite_path
from mmclip_launch.run.tables import from_table, read_toml, union_paths


@config
class RunConfig(RunFields):
    """One training run."""

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_conflicts(self)


SAFE_TO_CHANGE = (
    "output",
    "log_every_steps",
    "peer_timeout_seconds",
    "checkpoint",
    "mirror",
    "watchdog",
    "evaluation",
    "retained.max_forgetting",
    "trackers",
    "device",
    "profile",
    "accumulation.graph_gib",
    "sharding",
    "towers.text_groups",
    "towers.pooled_last_block",
    "towers.activation_checkpointing",
    "towers.compile",
    "towers.compile_backend",
    "data.loader",
    "data.workers",
    "data.prefetch_batches",
    "data.timeout_seconds",
    "data.restarts",
    "data.source.changes",
)
"""Fields that may differ when a run resumes: none of them reaches a weight, but later `changes` of a mixture's weights; what
lies behind the checkpoint is compared by the fingerprint of the data."""


def load_run_config(path: Path, flags: Sequence[str] = (), program: str = "mmclip train CONFIG.toml") -> RunConfig:
    """Read a run file and lay flags such as `--optimizer.lr 1e-3` over it.

    Raises:
        UserError: the file or a flag is wrong; one line a fault.
        SystemExit: the flags ask for help (code 0).
    """
    table = read_toml(path)
    remaining = _choose_union_members(table, list(flags))
    config = from_table(RunConfig, table, str(path))
    return _with_suite(at_home(_apply_flags(config, remaining, program) if remaining else config))


def _with_suite(config: RunConfig) -> RunConfig:
    """The sets of suite files written out, so that the run folder says what they were."""
    for name in ("evaluation", "retained"):
        part: EvaluationConfig | RetainedConfig = getattr(config, name)
        if part.suite is not None:
            sets = (*part.datasets, *read_suite(suite_path(part.suite)))
            config = replace(config, **{name: replace(part, datasets=sets, suite=None)})
    return config


def _choose_union_members(table: dict[str, Any], flags: list[str]) -> list[str]:
    """Take `--objective.type siglip` out of the flags and into the table: only then does tyro know the right options."""
    unions = union_paths(RunConfig)
    remaining = []
    queue = iter(flags)
    for flag in queue:
        name, equals, value = flag.removeprefix("--").replace("-", "_").partition("=")
        path = name.removesuffix(".type")
        if not flag.startswith("--") or path == name or path not in unions:
            remaining.append(flag)
            continue
        value = value if equals else next(queue, "")
        *parents, last = path.split(".")
        place = table
        for parent in parents:
            place = place.setdefault(parent, {})
        if not isinstance(place.get(last), dict) or place[last].get("type") != value:
            place[last] = {"type": value}
    return remaining


def _apply_flags(config: RunConfig, flags: Sequence[str], program: str) -> RunConfig:
    import tyro

    options = (tyro.conf.AvoidSubcommands, tyro.conf.SuppressFixed, tyro.conf.FlagConversionOff)
    return parse_config(RunConfig, flags, program, default=config, config=options)


def option_names(config: RunConfig) -> str:
    """Tyro's help text, for the test that keeps the list of options frozen."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        _apply_flags(config, ["--help"], "mmclip train")
    return text.getvalue()
