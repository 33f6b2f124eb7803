"""How many samples there should be: what is said beside shards, compared with what they hold."""

from pathlib import Path

from mmclip.errors import UserError
from mmclip_data.loading.promised_counts import broken_counts, promised_samples
from mmclip_eval.sources.form import Declared
from mmclip_eval.sources.tars import ShardedSamples


def counts_beside(samples: ShardedSamples) -> tuple[int | None, str]:
    """What stands beside local shards about their samples, and where: img2dataset's statistics, or `sizes.json`.

    Raises:
        UserError: a shard holds another number than is said of it; both numbers are in the message.
    """
    counted = {shard: count for shard, count in samples.samples_of_shard.items() if isinstance(shard, Path)}
    lines = broken_counts(counted)
    if lines:
        more = f" (and {len(lines) - 1} more)" if len(lines) > 1 else ""
        raise UserError(f"{samples.name}: {lines[0]}{more}; get the shard again, or mend what is said of it")
    promised = promised_samples(counted) if len(counted) == len(samples.shards) else None
    return promised or (None, "")


def refuse_other_count(name: str, wanted: int | None, declared: Declared, found: int) -> int | None:
    """The number of samples that is declared, by the configuration or else by the set; None where neither says one.

    Raises:
        UserError: there are more or fewer; both numbers are in the message.
    """
    said = ((wanted, "num_samples in the configuration"), (declared.num_samples, declared.counted_by))
    for number, by in said:
        if number is not None and number != found:
            raise UserError(
                f"{name}: {found} samples are there, {number} are expected ({by}): part of the set is missing, or it is "
                "another version or split; get the rest, or mend the number"
            )
    return next((number for number, _ in said if number is not None), None)
