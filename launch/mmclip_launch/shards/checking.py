"""`mmclip shards check SHARDS` and `stats SHARDS`: what is in them, and what a run would lose of it.

`check` exits with 0 where a run would lose nothing, with 1 where it would lose samples or refuse a shard.
"""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mmclip_launch.flags import parse_config
from mmclip_launch.screen import Screen
from mmclip_launch.shards.jobs import with_shards

if TYPE_CHECKING:
    from mmclip_data.pipelines.check import CheckReport

EXIT_LOSES = 1
STYLES = {"refused": "bold red", "lost": "red", "note": "dim"}


def check(arguments: Sequence[str]) -> None:
    """Read every shard and print what is wrong.

    Raises:
        SystemExit: code 1, a run would lose something.
    """
    from mmclip_data.pipelines.check import CheckConfig, check_shards

    config = parse_config(CheckConfig, with_shards(arguments), "mmclip shards check")
    screen = Screen()
    report = check_shards(config, screen.track)
    if config.json:
        print(json.dumps(report.facts(), indent=1, ensure_ascii=False))
    else:
        _show(screen, report)
    if config.names:
        screen.say(f"every name: {config.names}")
    if report.loses:
        raise SystemExit(EXIT_LOSES)


def _show(screen: Screen, report: "CheckReport") -> None:
    from rich.table import Table
    from rich.text import Text

    totals = dict(report.totals)
    size = totals.pop("bytes")
    screen.show(Text(f"{', '.join(f'{count:,} {name}' for name, count in totals.items())}; {size / 1e6:,.1f} MB"))
    rows = report.rows()
    if rows:
        table = Table("effect", "what", "count", "shards")
        for effect, kind, count, shards, _ in rows:
            table.add_row(Text(effect, STYLES[effect]), Text(kind), f"{count:,}", f"{shards:,}")
        screen.show(table)
        for _, kind, _, _, example in rows:  # below the table, for a path that is wrapped in a cell cannot be copied
            screen.show(Text(f"{kind}, for example {example}"), wrap=False)
    verdict = "a run would lose something" if report.loses else "a run would lose nothing"
    screen.show(Text(verdict))


def stats(arguments: Sequence[str]) -> None:
    """Draw what the indexes know of sizes and captions, and print the numbers."""
    from mmclip_data.pipelines.stats import StatsConfig, shard_stats

    config = parse_config(StatsConfig, with_shards(arguments), "mmclip shards stats")
    screen = Screen()
    report = shard_stats(config, screen.track)
    if config.json:
        print(json.dumps(report.facts(), indent=1))
        return
    for line in report.lines():
        print(line)
