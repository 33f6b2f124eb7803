"""Which samples of a set are held out of the training that learns from the rest of it."""

from mmclip.errors import UserError
from mmclip_data.loading.chosen import name_in_source
from mmclip_data.loading.held_out import HeldOutConfig
from mmclip_eval.fields import parse_field, read_value
from mmclip_eval.samples import Samples
from mmclip_eval.some_samples import SomeSamples


def held_out_of(samples: Samples, settings: HeldOutConfig) -> list[int]:
    """Indices of the samples that are held out.

    Raises:
        UserError: none or all of them would be, or a sample has nothing at `by`.
    """
    found = [index for index in range(len(samples)) if settings.holds_out(_name(samples, index, settings.by))]
    if not 0 < len(found) < len(samples):
        raise UserError(
            f"{samples.name}: held_out.share={settings.share} holds out {len(found)} of {len(samples)} samples: give another "
            "share or seed, or groups (held_out.by) that are smaller"
        )
    return found


def only_held_out(samples: Samples, settings: HeldOutConfig) -> Samples:
    """The part of a set that is held out; raises `UserError` as `held_out_of` does."""
    return SomeSamples(samples, held_out_of(samples, settings))


def _name(samples: Samples, index: int, by: str | None) -> str:
    if by is None:
        return name_in_source(samples.sample_id(index))
    field = parse_field(by, "held_out.by")
    name = samples.sample_id(index)
    value = read_value(field, samples.members(index, (field.extension,)), name)
    if value is None:
        raise UserError(f"sample {name}: nothing at held_out.by={by!r}, so it belongs to no group")
    return str(value)
