"""Shards with the samples that a condition, a list of ids and rules for captions let through.

    mmclip shards filter data/mine/train --output data/large --where 'short_side >= 200 and similarity > 0.3'

Fields are those of `FIELDS`, else of the sample's `json`, else of the Parquet file that img2dataset wrote beside the tar.
With a scorer, `clip_score` is how well a model finds that picture and caption fit.
"""

import json
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from mmclip.config import config
from mmclip.errors import BadSampleError, UserError
from mmclip.near import did_you_mean
from mmclip_data.loading.caption_fields import fields_of_shards
from mmclip_data.loading.captions import captions_of, members_of
from mmclip_data.pipelines.caption_rules import CaptionRules
from mmclip_data.pipelines.expression import Condition, MissingFieldError, field_of
from mmclip_data.pipelines.job import Dropped, JobReport, Kept, Outcome, Track, quiet
from mmclip_data.pipelines.pairs import NO_CAPTION
from mmclip_data.pipelines.rewrite import Inputs, RewriteConfig, open_inputs, rewrite
from mmclip_data.pipelines.scores import CLIP_SCORE, Scorer, Scores, refuse_bad_fraction
from mmclip_data.pipelines.table_rows import HINT
from mmclip_data.pipelines.uid_subset import UidSubset
from mmclip_data.shards.names import IMAGE_EXTENSIONS
from mmclip_data.shards.pictures import FORMATS

NOT_IN_SUBSET, FALSE, CANNOT = "uid is not in the subset", "where is false", "where cannot be worked out"
TOO_LOW = "clip_score is not among the highest"
TRIED = 100
"""Samples looked at before anything is written, to find a name that no sample has."""


@config
class FilterConfig(RewriteConfig):
    """Keep the samples of shards that pass; the members of those are copied as they are."""

    where: str | None = None
    """A condition over fields, such as "width >= 200 and similarity > 0.3"."""
    uids: Path | None = None
    """A DataComp subset file (.npy of u8,u8): only samples whose `uid` is in it."""
    uid_field: str = "uid"
    """The field of the json (or Parquet) that `uids` looks up."""
    captions: tuple[str, ...] | None = None
    """Where captions are, as in a run file's `data.captions`; default: where a run without that would look."""
    caption: CaptionRules = field(default_factory=CaptionRules)
    """Rules that each caption of a sample must keep."""
    score: str | None = None
    """A checkpoint: the cosine of picture and first caption is the field `clip_score`."""
    keep_fraction: float | None = None
    """With `score`: of all samples that have one, only this share with the highest; `where` may take more away."""
    device: str = "cpu"
    """With `score`: where the checkpoint computes."""
    features: Path | None = None
    """With `score`: a folder that keeps the pictures' features for a second try, or for another threshold."""


class _Sample:
    """The fields of one sample, each found when it is asked for."""

    def __init__(self, work: "_Filter", row: int) -> None:
        self.work = work
        self.row = row
        self.shard, self.local = work.inputs.locate(row)
        self.index = work.inputs.readers[self.shard].index

    def lookup(self, name: str) -> Any:
        """A field by its name.

        Raises:
            MissingFieldError: the sample has none.
        """
        if name == CLIP_SCORE and self.work.scores is not None:
            return self.work.scores.of(self.row)
        if name in FIELDS:
            return FIELDS[name](self)
        table, dot, path = name.partition(".")
        if dot and table in ("json", "parquet"):
            return field_of(self.json if table == "json" else self.parquet, path)
        return field_of(self.json if table in self.json else self.parquet, name)

    @cached_property
    def members(self) -> dict[str, bytes]:
        """The members that say something about the sample.

        Raises:
            BadSampleError: they are not those that were indexed.
        """
        return self.work.inputs.readers[self.shard].read(self.local, {"json", *members_of(self.work.captions)})

    @cached_property
    def json(self) -> Mapping[str, Any]:
        try:
            table = json.loads(self.members.get("json", b"{}"))
        except (ValueError, RecursionError) as error:
            raise BadSampleError(f"json cannot be read: {error}") from error
        return table if isinstance(table, dict) else {}

    @property
    def parquet(self) -> Mapping[str, Any]:
        return self.work.parquet_row(self.shard, self.index.key(self.local))

    @cached_property
    def captions(self) -> list[str]:
        return [text for texts in captions_of(dict(self.members), self.work.captions) for text in texts]

    @property
    def caption(self) -> str:
        try:
            return self.captions[0]
        except BadSampleError as error:
            raise MissingFieldError("caption") from error

    def side(self, name: str) -> int:
        value = int(self.index.columns[f"sample_{name}"][self.local])
        if not value:
            raise MissingFieldError(name)
        return value

    def picture_bytes(self) -> int:
        members = self.index.members(self.local)
        sizes = [members[extension].size for extension in IMAGE_EXTENSIONS if extension in members]
        if not sizes:
            raise MissingFieldError("picture_bytes")
        return sizes[0]


FIELDS: dict[str, Callable[[_Sample], Any]] = {
    "width": lambda sample: sample.side("width"),
    "height": lambda sample: sample.side("height"),
    "short_side": lambda sample: min(sample.side("width"), sample.side("height")),
    "long_side": lambda sample: max(sample.side("width"), sample.side("height")),
    "pixels": lambda sample: sample.side("width") * sample.side("height"),
    "aspect": lambda sample: sample.side("width") / sample.side("height"),
    "format": lambda sample: FORMATS[int(sample.index.columns["sample_format"][sample.local])],
    "picture_bytes": lambda sample: sample.picture_bytes(),
    "caption": lambda sample: sample.caption,
    "caption_length": lambda sample: len(sample.caption),
    "caption_words": lambda sample: len(sample.caption.split()),
    "key": lambda sample: sample.index.key(sample.local),
    "shard": lambda sample: sample.work.inputs.names[sample.shard],
}
"""Fields that every sample has by itself; the picture's size is that of the stored pixels."""


@dataclass
class _Filter:
    """The work on some rows; travels to each process once."""

    inputs: Inputs
    where: Condition | None
    uids: UidSubset | None
    uid_field: str
    captions: tuple[str, ...]
    rules: CaptionRules
    keep_keys: bool
    scores: Scores | None = None
    _tables: dict[int, dict[str, Mapping[str, Any]]] = field(default_factory=dict)

    def __call__(self, rows: list[int]) -> list[Outcome]:
        return [self.outcome(row) for row in rows]

    def outcome(self, row: int) -> Outcome:
        name = self.inputs.name(row)
        try:
            problem = self._problem(_Sample(self, row))
        except BadSampleError as error:
            return Dropped(name, "sample cannot be read", str(error))
        if problem:
            return Dropped(name, *problem)
        members = self.inputs.read(row)
        return (
            members if isinstance(members, Dropped) else Kept(members, self.inputs.key(row) if self.keep_keys else None)
        )

    def _problem(self, sample: _Sample) -> tuple[str, str] | None:
        """Reason and detail, the cheapest questions first."""
        try:
            if self.scores is not None and not self.scores.keeps(sample.row):
                return TOO_LOW, ""
            if self.uids is not None and not self._in_subset(sample):
                return NOT_IN_SUBSET, ""
            if self.where is not None and not self.where.holds(sample.lookup):
                return FALSE, ""
        except MissingFieldError as error:
            return f"no field {error}", ""
        except BadSampleError:  # which is a ValueError too
            raise
        except (TypeError, ValueError, ZeroDivisionError) as error:
            return CANNOT, str(error)
        return self._broken_rule(sample) if self.rules.any else None

    def _in_subset(self, sample: _Sample) -> bool:
        assert self.uids is not None
        uid = str(sample.lookup(self.uid_field))
        try:
            return uid in self.uids
        except ValueError as error:
            raise BadSampleError(f"{self.uid_field} is {uid[:50]!r}, expected 32 hex digits") from error

    def _broken_rule(self, sample: _Sample) -> tuple[str, str] | None:
        if not members_of(self.captions) & sample.members.keys():
            return NO_CAPTION, ""
        try:
            for caption in sample.captions:
                broken = self.rules.broken_by(caption)
                if broken:
                    return broken, caption[:200]
        except BadSampleError as error:
            return NO_CAPTION, str(error)
        return None

    def parquet_row(self, shard: int, key: str) -> Mapping[str, Any]:
        """The row of img2dataset's Parquet file beside the tar; only the tables of two shards are held."""
        if shard not in self._tables:
            while len(self._tables) > 1:
                self._tables.pop(next(iter(self._tables)))
            self._tables[shard] = _parquet_rows(self.inputs.readers[shard].tar.with_suffix(".parquet"))
        return self._tables[shard].get(key, {})


def make_filter(config: FilterConfig, track: Track = quiet, scorer: Scorer | None = None) -> JobReport:
    """Write the samples that pass, in their order; each of the others is named with the reason.

    `scorer` is what `score` names: whoever calls brings the model.

    Raises:
        UserError: nothing is asked, the condition is none or names what no sample has, or nothing is left.
    """
    config.caption.check()
    asked = config.where, config.uids, config.keep_fraction
    if all(one is None for one in asked) and not config.caption.any:
        raise UserError(
            "filter: nothing to filter by; give --where, --uids, --keep-fraction or a rule such as --caption.min_length 5"
        )
    refuse_bad_fraction(config.keep_fraction, scorer is not None)
    where = Condition(config.where) if config.where is not None else None
    uids = UidSubset.load(config.uids) if config.uids else None
    inputs = open_inputs(config, track)
    keep = config.keys == "keep"
    captions = fields_of_shards(inputs.readers) if config.captions is None else config.captions
    work = _Filter(inputs, where, uids, config.uid_field, captions, config.caption, keep)
    facts = {"uids": uids.fingerprint if uids else None, "captions": list(captions)}
    if scorer is None:
        _try_fields(work)
    else:
        _try_fields(work, {CLIP_SCORE})  # before the pass, which takes longer than all the rest
        work = replace(work, scores=Scores.made(scorer, inputs, captions, config.keep_fraction, track))
        facts["score"] = scorer.name()
    rows = np.arange(len(inputs))
    report = rewrite("filter", config, inputs, rows, work, track, **facts)
    if uids is not None:
        inside = report.counts["samples read"] - report.dropped.counts.get(NOT_IN_SUBSET, 0)
        note = f"{len(uids):,} uids asked for, {inside:,} samples have one of them"
        report = replace(report, notes=[*report.notes, note])
    return report if work.scores is None else replace(report, notes=[*report.notes, work.scores.note])


def _try_fields(work: _Filter, known: Set[str] = frozenset()) -> None:
    """Refuse a name that none of some samples has, and say which there are; `known` will be there."""
    fields = set(work.where.fields if work.where else ()) | ({work.uid_field} if work.uids is not None else set())
    unseen, known = set(fields) - FIELDS.keys() - known, {*FIELDS, *known}
    rows = np.unique(np.linspace(0, len(work.inputs) - 1, TRIED).astype(int)).tolist()
    for row in rows:
        sample = _Sample(work, row)
        for name in sorted(unseen):
            try:
                sample.lookup(name)
            except (MissingFieldError, BadSampleError):
                continue
            unseen.discard(name)
        if not unseen:
            return
        try:
            known |= {*sample.json, *sample.parquet}
        except BadSampleError:
            continue
    name = min(unseen)
    raise UserError(
        f"where: no field {name!r} in {len(rows)} samples looked at; {did_you_mean(name, known, after=' ')}"
        f"there are {', '.join(sorted(known))}"
    )


def _parquet_rows(path: Path) -> dict[str, Mapping[str, Any]]:
    """Rows by `key`, without columns of bytes; none where there is no such file."""
    if not path.is_file():
        return {}
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise UserError(f"{path}: {HINT}") from error
    with parquet.ParquetFile(path) as file:
        columns = [column.name for column in file.schema_arrow if not pyarrow.types.is_binary(column.type)]
        rows = file.read(columns).to_pylist() if "key" in columns else []
    return {str(row["key"]): row for row in rows}
