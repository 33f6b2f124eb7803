"""`mmclip shards ...`: data in the form that training reads, looked at, and made better.

mmclip shards make folder --source pictures/ --output data/pictures
mmclip shards make table --source captions.csv --output data/mine
mmclip shards index 'data/pictures/train/*.tar'
mmclip shards check data/pictures/train
mmclip shards filter data/pictures/train --output data/large --where 'short_side >= 200'
"""

import importlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mmclip.errors import UserError
from mmclip.near import did_you_mean


class Job(NamedTuple):
    """Where a job's configuration and function are; both are loaded only when the job is called."""

    module: str
    config: str
    function: str
    says: str


PIPELINES = "mmclip_data.pipelines"
MAKERS = {
    "folder": Job(
        f"{PIPELINES}.folder", "FolderConfig", "make_folder", "pictures in class folders, or with caption files"
    ),
    "table": Job(
        f"{PIPELINES}.table", "TableConfig", "make_table", "a CSV, TSV, JSONL or Parquet of paths and captions"
    ),
    "datasets": Job(
        f"{PIPELINES}.hf_datasets", "DatasetsConfig", "make_datasets", "any data set of Hugging Face `datasets`"
    ),
    "img2dataset": Job(
        f"{PIPELINES}.img2dataset", "Img2datasetConfig", "make_img2dataset", "what img2dataset has downloaded"
    ),
    "idx": Job(f"{PIPELINES}.idx", "IdxConfig", "make_idx", "MNIST's format"),
    "emoji": Job(f"{PIPELINES}.emoji", "EmojiConfig", "make_emoji", "the pictures that come with mmclip"),
    "stamps": Job(f"{PIPELINES}.stamps", "StampsConfig", "make_stamps", "Tux Paint's stamps, out of Debian's package"),
}
REWRITERS = {
    "repack": Job(
        f"{PIPELINES}.repack", "RepackConfig", "make_repack", "smaller pictures, other shards, another order"
    ),
    "filter": Job(f"{PIPELINES}.filter", "FilterConfig", "make_filter", "the samples for which a condition holds"),
    "dedup": Job(f"{PIPELINES}.dedup", "DedupConfig", "make_dedup", "each picture once"),
}
VERBS = {
    "make": ("jobs", "make", "shards from a folder, a table, a data set: mmclip shards make KIND"),
    "index": ("indexing", "index", "what training needs beside every tar: mmclip shards index SHARDS"),
    "check": ("checking", "check", "what a run would lose of them: mmclip shards check SHARDS"),
    "stats": ("checking", "stats", "sizes, aspects and caption lengths as a picture: mmclip shards stats SHARDS"),
    **{
        name: ("jobs", "rewrite", f"{job.says}: mmclip shards {name} SHARDS --output FOLDER")
        for name, job in REWRITERS.items()
    },
}
USAGE = f"expected: mmclip shards make {'|'.join(MAKERS)} [--help], or mmclip shards {'|'.join([*VERBS][1:])} SHARDS [--help]"


def main(arguments: Sequence[str]) -> None:
    """Dispatch to the verb below `shards`.

    Raises:
        UserError: there is no such verb.
    """
    verb, rest = (arguments[0], arguments[1:]) if arguments else ("", [])
    if verb in ("-h", "--help"):
        print(USAGE + "\n" + listing({name: says for name, (_, _, says) in VERBS.items()}))
        return
    if verb not in VERBS:
        raise UserError(f"shards {verb!r}: {did_you_mean(verb, VERBS, after=' ')}{USAGE}")
    module, function, _ = VERBS[verb]
    run: Any = getattr(importlib.import_module(f"mmclip_launch.shards.{module}"), function)
    run(rest) if function != "rewrite" else run(verb, rest)


def listing(lines: Mapping[str, str]) -> str:
    """A line for each name."""
    return "\n".join(f"  {name:13}{says}" for name, says in lines.items())
