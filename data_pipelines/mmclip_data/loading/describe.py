"""What a run reads, in the words that stand at its start: its length in every unit, and each source of a mixture."""

from mmclip_data.loading.mixture import Mixture
from mmclip_data.loading.mixture_order import MixtureOrder
from mmclip_data.loading.opening import Opened
from mmclip_data.loading.order import Draws, Order


def describe(opened: Opened, order: Order, total_samples: int) -> list[str]:
    """Lines about the data of a run of `total_samples`."""
    lines = list(opened.notes)
    if isinstance(order, MixtureOrder) and isinstance(opened.source, Mixture):
        lines += _mixture(opened.source, order, total_samples)
    if isinstance(order, Draws) or isinstance(order, MixtureOrder) and isinstance(order.parts[0], Draws):
        lines.append(
            f"sampling with replacement: each sample is a draw of its own, so an epoch is {order.samples_per_epoch:,} draws; "
            "some samples come several times in it, and about 37 % not at all"
        )
    return lines


def _mixture(source: Mixture, order: MixtureOrder, total: int) -> list[str]:
    lines = [
        f"mixture: an epoch is {order.samples_per_epoch:,} samples, as many as its {len(source.parts)} sources hold together; "
        "each source has epochs of its own:"
    ]
    given, slots = order.given_before(total), len(order.segments[0].source)
    for number, (part, count) in enumerate(zip(source.parts, given, strict=True)):
        shares = " then ".join(f"{segment.counts[number] / slots:.1%}" for segment in order.segments)
        lines.append(
            f"  {part.name}: {shares} = {count:,} samples = {count / part.samples:.2f} epochs of {part.samples:,}"
        )
    lines += [f"  weights change at {segment.start:,} samples seen" for segment in order.segments[1:]]
    return lines
