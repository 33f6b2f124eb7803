"""`mmclip shards make KIND` and `mmclip shards index PATH`: data in the form that training reads.

mmclip shards make folder --source pictures/ --output data/pictures
mmclip shards make idx --source /usr/share/datasets/fashion-mnist --output data/fashion-mnist
mmclip shards index 'data/pictures/train/*.tar'
"""

import argparse
import difflib
import importlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mmclip.errors import UserError
from mmclip_launch.run.tables import explain
from mmclip_launch.screen import Screen

MAKERS = {
    "folder": ("mmclip_data.pipelines.folder", "FolderConfig", "make_folder"),
    "idx": ("mmclip_data.pipelines.idx", "IdxConfig", "make_idx"),
    "emoji": ("mmclip_data.pipelines.emoji", "EmojiConfig", "make_emoji"),
}
USAGE = f"expected: mmclip shards make {'|'.join(MAKERS)} [--help], or mmclip shards index PATH ..."


def main(arguments: Sequence[str]) -> None:
    """Dispatch `make` and `index`."""
    verb, rest = (arguments[0], arguments[1:]) if arguments else ("", [])
    if verb in ("-h", "--help"):
        print(USAGE)
    elif verb == "make":
        make(rest)
    elif verb == "index":
        index(rest)
    else:
        raise UserError(f"shards {verb!r}: {USAGE}")


def make(arguments: Sequence[str]) -> None:
    """Run the job of one kind of source, with flags for its configuration."""
    import tyro

    kind, flags = (arguments[0], arguments[1:]) if arguments else ("", [])
    if kind in ("-h", "--help"):
        print(USAGE)
        return
    if kind not in MAKERS:
        near = difflib.get_close_matches(kind, MAKERS, n=1, cutoff=0.3)
        raise UserError(f"shards make {kind!r}: {f'did you mean {near[0]!r}? ' if near else ''}{USAGE}")
    module_name, config_name, function_name = MAKERS[kind]
    module: Any = importlib.import_module(module_name)
    config_class = getattr(module, config_name)
    try:
        config = tyro.cli(config_class, args=list(flags), prog=f"mmclip shards make {kind}", use_underscores=True)
    except ValidationError as error:
        raise UserError("\n".join(explain(config_class, error))) from None
    started = time.perf_counter()
    report = getattr(module, function_name)(config)
    screen = Screen()
    for line in report.lines():
        screen.say(line)
    screen.say(f"done in {time.perf_counter() - started:.1f} s")


def index(arguments: Sequence[str]) -> None:
    """Write the index of every shard that is named."""
    from mmclip_data.shards import build_index, expand_shards, index_path, write_index

    parser = argparse.ArgumentParser(prog="mmclip shards index", description="Write NAME.tar.mmidx beside each shard.")
    parser.add_argument("shards", nargs="+", help="files, folders or patterns such as data/{000..127}.tar")
    parser.add_argument("--index-folder", type=Path, help="folder for the indexes of shards in a read-only place")
    options = parser.parse_args(arguments)
    screen = Screen()
    total = 0
    for tar in expand_shards(options.shards):
        built = build_index(tar)
        target = index_path(tar, options.index_folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        write_index(built, target)
        total += built.num_samples
        ignored = f", {built.ignored_members} members that belong to no sample" if built.ignored_members else ""
        screen.say(f"{tar}: {built.num_samples:,} samples, members {', '.join(built.extensions)}{ignored}")
    screen.say(f"{total:,} samples in all")
