"""A look at a source before a run begins: are there samples that it can use, enough of them, and as many as promised?"""

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from mmclip.errors import BadSampleError, UserError
from mmclip_data.loading.caption_fields import SAMPLES_READ, some_places, spread, table_of
from mmclip_data.loading.captions import captions_of, members_of
from mmclip_data.loading.decode import decode_image
from mmclip_data.loading.mixture import Mixture
from mmclip_data.loading.mixture_order import MixtureOrder
from mmclip_data.loading.opening import SHARDS_COUNTED, Opened, name_of
from mmclip_data.loading.order import Draws, Order
from mmclip_data.loading.promised_counts import broken_promises
from mmclip_data.loading.sources import IndexedTars, Source, picture_of
from mmclip_data.shards.losses import lost_before
from mmclip_data.shards.names import IMAGE_EXTENSIONS


def refuse_unusable(opened: Opened, max_bad_fraction: float) -> list[str]:
    """Refuse a source whose samples a run would throw away, before it starts; of a mixture, each of its sources.

    Of a source without caption fields only the pictures count.

    What is odd but no reason to refuse comes back in words.

    Raises:
        UserError: no sample, or too few, have a picture and, where that is wanted, a caption; the message holds the counts.
    """
    odd: list[str] = []
    parts = opened.source.parts if isinstance(opened.source, Mixture) else (opened,)
    for part in parts:
        if isinstance(part.source, IndexedTars):
            odd += _count_members(part.source, part.captions, max_bad_fraction)
            odd += lost_before(
                [(str(tar), index) for tar, index in zip(part.source.tars, part.source.indexes, strict=True)]
            )
            odd += broken_promises(part.source)
        _read_some(part.source, part.captions)
    return odd


def refuse_small(opened: Opened, order: Order, global_batch_size: int) -> None:
    """Refuse batches in which a sample would stand twice: it would be its own negative.

    Raises:
        UserError: a source has fewer samples than a batch takes from it.
    """
    if isinstance(order, MixtureOrder) and isinstance(opened.source, Mixture):
        names = [part.name for part in opened.source.parts]
        wanted = list(zip(names, order.most_in_batch(global_batch_size), order.parts, strict=True))
    else:
        wanted = [(name_of(opened.source), global_batch_size, order)]
    for name, samples, own in wanted:
        if samples > own.samples_per_epoch and not isinstance(own, Draws):
            raise UserError(
                f"global_batch_size={global_batch_size}: a batch would take {samples:,} samples of {name}, which has "
                f"{own.samples_per_epoch:,}, so that some stand in it twice and each is its own negative: use a smaller "
                'batch, more data, or data.plan.sampling = "replacement", which allows that'
            )


def most_bad(share: float, samples: int) -> float:
    """How many of `samples` may be bad: ten are always allowed, since one in the first batch says nothing of the share.

    Only a share of 0 means none.
    """
    return max(10.0, share * samples) if share else 0.0


def _count_members(source: IndexedTars, captions: Sequence[str], max_bad_fraction: float) -> list[str]:
    fields = sorted(members_of(captions))
    indexes = [source.indexes[number] for number in spread(len(source.tars), SHARDS_COUNTED)]
    members: Counter[str] = Counter()
    total = pictures = usable = 0
    for index in indexes:
        members.update(index.extension_counts())
        total += index.num_samples
        no_picture = index.samples_without(IMAGE_EXTENSIONS)
        no_caption = index.samples_without(fields) if fields else no_picture
        pictures += index.num_samples - len(no_picture)
        usable += index.num_samples - len(np.union1d(no_picture, no_caption))
    lost = total - usable
    where = f"{len(indexes)} of {len(source.tars)} shards"
    if usable and lost <= most_bad(max_bad_fraction, total):
        wanted = " or ".join(("no picture", *(["none of " + ", ".join(fields)] if fields else [])))
        told = f"{lost:,} of {total:,} samples in {where} have {wanted}: at its turn, another takes the place of each"
        return [f"{told}; `mmclip shards check` names them"] if lost else []
    wanted = ", ".join(f"{members[field]:,} a member {field}" for field in fields)
    keys = _keys_of_json(source) if fields and members["json"] else ""
    raise UserError(
        f"data: {'no sample is' if not usable else f'only {usable:,} samples are'} left after filtering: of {total:,} "
        f"samples in {where} (first: {source.tars[0]}) {pictures:,} have a picture ({', '.join(IMAGE_EXTENSIONS)})"
        f"{f' and {wanted}; expected both in ' if fields else '; expected one in '}"
        f"{'each' if not max_bad_fraction else f'all but {max_bad_fraction:.0%}'}; members there: {_list(members)}{keys}. "
        f"{'Name the right member in data.captions, or take' if fields else 'Take'} the others out of the shards"
    )


def _keys_of_json(source: IndexedTars) -> str:
    """What `json:KEY` could name instead; the source is not used again."""
    source.restrict({"json"})
    for place in some_places(source.shard_sizes.tolist(), SAMPLES_READ):
        try:
            table = table_of(source.read(*place))
        except BadSampleError:
            continue
        if table:
            return f"; keys of json: {', '.join(map(str, list(table)[:8]))}"
    return ""


def _list(members: Counter[str]) -> str:
    listed = ", ".join(f"{name} ({count:,})" for name, count in members.most_common(8))
    return listed + (f" and {len(members) - 8} more" if len(members) > 8 else "")


def _read_some(source: Source, captions: Sequence[str]) -> None:
    reasons: list[str] = []
    for place in some_places(source.shard_sizes.tolist(), SAMPLES_READ):
        sample: dict[str, Any] = {}
        try:
            sample = source.read(*place)
            fields = sample.get("__captions__", captions)
            if fields:
                captions_of(sample, fields)
            if "pixels" not in sample:
                decode_image(picture_of(sample))
        except BadSampleError as error:
            reasons.append(f"{source.sample_id(*place)}: {error}{_json_keys(sample, captions)}")
        else:
            return
    fix = "name a field that is there in data.captions, or mend the samples" if captions else "mend the samples"
    if "checksum" in reasons[0] and isinstance(source, IndexedTars):
        fix = (
            "the index belongs to another tar, or the tar was changed: fetch both again, or make a new index "
            f"(`mmclip shards index --force {source.tars[0]}`)"
        )
    raise UserError(f"data: none of {len(reasons)} samples looked at can be used, the first being {reasons[0]}; {fix}")


def _json_keys(sample: dict[str, Any], captions: Sequence[str]) -> str:
    """What the JSON member holds instead, where a caption was sought in it."""
    try:
        table = json.loads(sample["json"]) if any(field.startswith("json:") for field in captions) else None
    except (KeyError, ValueError):
        return ""
    return f" (keys of its json: {', '.join(list(table)[:8])})" if isinstance(table, dict) else ""
