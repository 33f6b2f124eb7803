"""The folder layout of CLIP_benchmark, which serves as training set and as evaluation set at once.

classnames.txt                          line i is the name of label i
zeroshot_classification_templates.txt   one template a line, with {c} for the name
dataset_type.txt                        "retrieval"; absent for classification
train/nshards.txt  train/0.tar ...      samples s0000000.{cls,png,txt}, our index beside each tar
test/nshards.txt   test/0.tar ...
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from mmclip.errors import UserError
from mmclip_data.shards.atomic import atomic_file
from mmclip_data.shards.index import index_path
from mmclip_data.shards.write import ShardWriter


def write_split(folder: Path, samples: Iterable[Mapping[str, bytes]], samples_per_shard: int) -> list[Path]:
    """Write `samples` to `folder` as numbered shards and their count; returns every file written.

    Raises:
        UserError: there is no sample, which no reader of the layout can open.
    """
    with ShardWriter(folder, "{}.tar", samples_per_shard) as writer:
        for number, members in enumerate(samples):
            writer.add(f"s{number:07d}", members)
    if not writer.paths:
        raise UserError(f"{folder}: no sample to write; expected at least one")
    count = write_lines(folder / "nshards.txt", [str(len(writer.paths))])
    return [*writer.paths, *map(index_path, writer.paths), count]


def write_lines(path: Path, lines: Sequence[str]) -> Path:
    """Write one entry a line.

    Raises:
        UserError: an entry holds a line break, which would shift every entry behind it.
    """
    for line in lines:
        if line.splitlines() not in ([line], []):
            raise UserError(f"{path}: entry {line!r} holds a line break; rename it")
    with atomic_file(path) as handle:
        handle.write("".join(f"{line}\n" for line in lines).encode())
    return path


def checked_templates(templates: Sequence[str]) -> tuple[str, ...]:
    """`templates`, each with a place for the class name.

    Raises:
        UserError: there is none, or one lacks `{c}`.
    """
    for template in templates or ("",):
        if "{c}" not in template:
            raise UserError(
                f"templates: {template!r} has no place for the class name; expected {{c}}, as in 'a photo of a {{c}}'"
            )
    return tuple(templates)


def caption(templates: Sequence[str], name: str, number: int) -> str:
    """The caption of sample `number`: the templates take turns, so that every sample has one and all are used."""
    return templates[number % len(templates)].replace("{c}", name)
