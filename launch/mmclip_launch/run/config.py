"""`RunConfig`: everything that one training run is, in one TOML file.

Precedence: the defaults below, then the file, then the flags. The resolved file stands in the run folder.
"""

import contextlib
import io
from collections.abc import Sequence
from dataclasses import field, replace
from pathlib import Path
from typing import Any, Literal

from mmclip.config import config
from mmclip.errors import UserError
from mmclip.objectives import ObjectiveConfig
from mmclip.objectives.clip import ClipConfig
from mmclip.objectives.combined import AuxiliaryConfig
from mmclip.towers.architecture import ModelConfig
from mmclip.towers.settings import TowersConfig
from mmclip.training.accumulate import AccumulationConfig
from mmclip.training.checkpoint.config import CheckpointConfig
from mmclip.training.early_stopping import EarlyStoppingConfig
from mmclip.training.ema import EmaConfig
from mmclip.training.optim import OptimizerConfig
from mmclip.training.precision import PrecisionChoice
from mmclip.training.progress import LengthConfig
from mmclip.training.resolution import ResolutionConfig
from mmclip.training.schedule import ScheduleConfig
from mmclip.training.sharding import ShardingConfig
from mmclip_data.loading.loader import DataConfig
from mmclip_eval.datasets import EvalDatasetConfig
from mmclip_launch.flags import parse_config
from mmclip_launch.mirror.config import MirrorConfig
from mmclip_launch.run.conflicts import refuse_conflicts
from mmclip_launch.run.hangs.watchdog_config import WatchdogConfig
from mmclip_launch.run.home import at_home
from mmclip_launch.run.profile import ProfileConfig
from mmclip_launch.run.recipe.chosen import dev_set
from mmclip_launch.run.recipe.head_config import HeadConfig
from mmclip_launch.run.recipe.retained_config import InterpolationConfig, RetainedConfig
from mmclip_launch.run.records.trackers import TrackersConfig
from mmclip_launch.run.scoring.suite_files import read_suite, suite_path
from mmclip_launch.run.tables import from_table, read_toml, union_paths


@config
class EvaluationConfig:
    """What a run is measured on while it trains, and at its end."""

    datasets: tuple[EvalDatasetConfig, ...] = ()
    """Each a `[[evaluation.datasets]]` table."""
    suite: str | None = None
    """A TOML file of `[[datasets]]` tables, as `mmclip eval` takes: its sets are added to `datasets`."""
    every_steps: int | None = None
    """Evaluate each time so many steps are done; by default before the first step and at the end only."""
    report: bool = True
    """Draw report/index.html at the end of the run; `mmclip report RUN` draws it at any time."""

    def __post_init__(self) -> None:
        if self.every_steps is not None and self.every_steps < 1:
            raise UserError(
                f"evaluation.every_steps={self.every_steps}: expected at least 1, or none for start and end"
            )


@config
class RunConfig:
    """One training run."""

    output: str
    """The run folder; a path in `runs/` by custom."""
    global_batch_size: int
    """Samples of one optimizer step, all ranks together."""
    length: LengthConfig
    """How long the run is: steps, samples or epochs."""
    data: DataConfig
    """What it trains on."""
    seed: int = 0
    """Seed of weights, order and augmentation."""
    precision: PrecisionChoice = "auto"
    """auto: bf16 where it is computed in hardware, else fp32. bf16, fp16: autocast, with weights, loss and moments in fp32,
    fp16 with a loss scaler; fp64 is for proofs."""
    device: Literal["auto", "cpu"] = "auto"
    """auto: CUDA or MPS where there is one."""
    channels_last: bool = False
    """Memory layout of convolutions; twice as fast for convolutional towers in bf16."""
    log_every_steps: int = 10
    """Steps between lines of metrics; reading a loss waits for the device."""
    peer_timeout_seconds: int = 600
    """How long the processes of a run wait for each other at its start."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """The two towers, and where their weights come from."""
    towers: TowersConfig = field(default_factory=TowersConfig)
    """How they compute, and which parts of them learn."""
    objective: ObjectiveConfig = field(default_factory=ClipConfig)
    """What they learn from."""
    auxiliary: tuple[AuxiliaryConfig, ...] = ()
    """Further objectives beside it, each an `[[auxiliary]]` table with its weight over the run."""
    head: HeadConfig = field(default_factory=HeadConfig)
    """A classifier over the classes of `data.labels`, for the objective `classify`."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """AdamW, clipping, clamp of the scale."""
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    """Learning rate over the run."""
    accumulation: AccumulationConfig = field(default_factory=AccumulationConfig)
    """Batches that do not fit into memory."""
    sharding: ShardingConfig = field(default_factory=ShardingConfig)
    """Models that do not fit into memory."""
    resolution: tuple[ResolutionConfig, ...] = ()
    """Earlier parts of the run at other picture sizes, each a `[[resolution]]` table; the rest is at the model's own."""
    image_features: str | None = None
    """Folder where the features of a locked image tower are kept, computed once before the first step (LiT)."""
    text_features: str | None = None
    """The same of a locked text tower; with both, an epoch reads nothing but features, and heads alone learn."""
    ema: EmaConfig = field(default_factory=EmaConfig)
    """A moving average of the weights, which is then what is evaluated, saved for others and exported."""
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    """When training state is saved."""
    mirror: MirrorConfig = field(default_factory=MirrorConfig)
    """A copy of the checkpoints on a store."""
    watchdog: WatchdogConfig = field(default_factory=WatchdogConfig)
    """What happens when a process stops answering."""
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    """What it is measured on."""
    early_stopping: EarlyStoppingConfig = field(default_factory=EarlyStoppingConfig)
    """When it ends before its length, and which of its weights count."""
    retained: RetainedConfig = field(default_factory=RetainedConfig)
    """What the weights it starts from can do and should still do at the end."""
    interpolation: InterpolationConfig = field(default_factory=InterpolationConfig)
    """Whether the end lies between the start and what was learnt."""
    profile: ProfileConfig = field(default_factory=ProfileConfig)
    """A look inside a few steps."""
    resume_open_clip: str | None = None
    """A training checkpoint of open_clip (`epoch_N.pt`) that a new run goes on from: weights, moments and steps done."""
    trackers: TrackersConfig = field(default_factory=TrackersConfig)
    """Where metrics go besides metrics.jsonl."""

    def __post_init__(self) -> None:
        if not self.output.strip():
            raise UserError("output='': expected the path of the run folder, such as runs/first")
        for name in ("global_batch_size", "log_every_steps", "peer_timeout_seconds"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)}: expected at least 1")
        if not 0 <= self.seed < 2**63:
            raise UserError(f"seed={self.seed}: expected an integer from 0 to 2**63 - 1")
        refuse_conflicts(self)

    @property
    def measured_sets(self) -> tuple[EvalDatasetConfig, ...]:
        """All evaluation sets: what the run is for, and what it must not forget."""
        return (*dev_set(self.data, self.head.start is not None), *self.evaluation.datasets, *self.retained.datasets)


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
