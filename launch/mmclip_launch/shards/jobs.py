"""`mmclip shards make KIND`, `repack`, `filter` and `dedup`: flags to a configuration, a bar, and what came of it."""

import importlib
import inspect
import time
from collections.abc import Sequence
from itertools import takewhile
from typing import Any

from mmclip.errors import UserError
from mmclip.near import did_you_mean
from mmclip_launch.flags import parse_config
from mmclip_launch.screen import Screen
from mmclip_launch.shards import MAKERS, REWRITERS, USAGE, Job, listing


def make(arguments: Sequence[str]) -> None:
    """Run the job of one kind of source, with flags for its configuration.

    Raises:
        UserError: there is no such kind.
    """
    kind, flags = (arguments[0], arguments[1:]) if arguments else ("", [])
    if kind in ("-h", "--help"):
        print(USAGE + "\n" + listing({name: job.says for name, job in MAKERS.items()}))
        return
    if kind not in MAKERS:
        raise UserError(f"shards make {kind!r}: {did_you_mean(kind, MAKERS, after=' ')}{USAGE}")
    _run(MAKERS[kind], flags, f"mmclip shards make {kind}")


def rewrite(verb: str, arguments: Sequence[str]) -> None:
    """Run a job from shards to shards."""
    _run(REWRITERS[verb], with_shards(arguments), f"mmclip shards {verb}")


def with_shards(arguments: Sequence[str]) -> list[str]:
    """The words before the first flag are the shards."""
    shards = list(takewhile(lambda word: not word.startswith("-"), arguments))
    return ["--shards", *shards, *arguments[len(shards) :]] if shards else list(arguments)


def _run(job: Job, flags: Sequence[str], program: str) -> None:
    module: Any = importlib.import_module(job.module)
    config = parse_config(getattr(module, job.config), flags, program)
    started, screen, function = time.perf_counter(), Screen(), getattr(module, job.function)
    # Makers whose data fit in memory are done before a bar would be drawn, and take none.
    track = [screen.track] if len(inspect.signature(function).parameters) > 1 else []
    report = function(config, *track, **_models(config))
    for line in report.lines():
        screen.say(line)
    screen.say(f"done in {time.perf_counter() - started:.1f} s")


def _models(config: Any) -> dict[str, Any]:
    """The models that a job asks for: jobs on data know none by themselves."""
    if getattr(config, "score", None) is None:
        return {}
    from mmclip_launch.shards.scoring import ClipScorer

    return {"scorer": ClipScorer(config.score, config.device, config.features)}
