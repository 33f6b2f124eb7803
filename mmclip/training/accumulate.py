"""A batch larger than memory: encode it in pieces, take one loss over all of them, push its gradient back through each.

GradCache (Gao et al. 2021, section 3): embeddings are small, activations are not. The embeddings of every micro-batch are
computed first, without a graph; the loss of the whole batch gives each of them its gradient; then each micro-batch is encoded
again, with the same randomness, and the gradient of its embeddings is pushed through. The result is the gradient of the whole
batch, for the price of one more forward. Micro-batches whose graphs fit a memory budget keep theirs and are encoded once.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from mmclip.batch import ObjectiveOutput, TowerOutput
from mmclip.config import config
from mmclip.errors import UserError
from mmclip.ops.shards import local

Micro = TypeVar("Micro")


@config
class AccumulationConfig:
    """How a batch that does not fit into memory is trained on all the same."""

    micro_batch_size: int | None = None
    """Samples of a rank that are encoded at a time; without it the whole batch is."""
    graph_gib: float = 0.0
    """Memory for the activations of micro-batches that are kept instead of encoded twice; those of one are always there."""

    def __post_init__(self) -> None:
        if self.micro_batch_size is not None and self.micro_batch_size < 1:
            raise UserError(f"accumulation.micro_batch_size={self.micro_batch_size}: expected at least 1")
        if not self.graph_gib >= 0:
            raise UserError(f"accumulation.graph_gib={self.graph_gib}: expected 0 or more")

    def micro_batches(self, global_batch_size: int, world_size: int) -> int:
        """Micro-batches of a rank.

        Raises:
            UserError: they would not be of equal size.
        """
        size = self.micro_batch_size
        if size is None or size * world_size >= global_batch_size:
            return 1
        unit = size * world_size
        if global_batch_size % unit == 0:
            return global_batch_size // unit
        below = global_batch_size // unit * unit
        raise UserError(
            f"global_batch_size={global_batch_size} is not divisible by {world_size} ranks x accumulation.micro_batch_size="
            f"{size} = {unit}; nearest: {below}, {below + unit}"
        )


@dataclass
class GraphBudget:
    """How many graphs are kept; what one takes is learned from the first."""

    bytes_allowed: int
    parameters: Iterable[Tensor] = ()
    """Saved for the backward pass too, but there anyway."""
    bytes_of_one: int | None = None
    _known: set[int] = field(default_factory=set)

    def kept(self, micro_batches: int) -> int:
        """Micro-batches that keep their graph: the last one always does, for it is pushed through first."""
        if not self.bytes_of_one:
            return 1
        return max(1, min(micro_batches, self.bytes_allowed // self.bytes_of_one))

    def counted(self, encode: Callable[[], TowerOutput]) -> TowerOutput:
        """Run `encode` and, the first time, add up the memory that its graph holds."""
        if self.bytes_of_one is not None or not self.bytes_allowed:
            return encode()
        seen = {local(parameter).untyped_storage().data_ptr() for parameter in self.parameters}
        total = 0

        def count(saved: Tensor) -> Tensor:
            nonlocal total
            storage = saved.untyped_storage()
            if storage.data_ptr() not in seen and not _is_weight(saved):
                seen.add(storage.data_ptr())
                total += storage.nbytes()
            return saved

        with saved_tensors_hooks(count, lambda saved: saved):
            output = encode()
        self.bytes_of_one = total
        return output


def _is_weight(saved: Tensor) -> bool:
    """Whether it is a weight as sharding gathers it for a pass: let go afterwards, whatever the graph says."""
    return isinstance(saved, nn.Parameter) or isinstance(saved._base, nn.Parameter)


def unchanged(output: ObjectiveOutput, whole: TowerOutput, last: TowerOutput) -> ObjectiveOutput:
    """A look that adds nothing."""
    return output


def accumulate(
    micros: Sequence[Micro],
    encode: Callable[[Micro], TowerOutput],
    objective: Callable[[TowerOutput], ObjectiveOutput],
    backward: Callable[[Tensor], Any],
    budget: GraphBudget,
    look: Callable[[ObjectiveOutput, TowerOutput, TowerOutput], ObjectiveOutput] = unchanged,
) -> tuple[TowerOutput, ObjectiveOutput]:
    """Leave the gradient of the whole batch in `.grad` of every parameter; the embeddings and the loss are returned.

    `encode` must give the same embeddings each time that it is called with a micro-batch, under `no_grad` or not. `backward`
    takes the loss, scaled as the caller likes. The order in which gradients are added, the last micro-batch first, does not
    depend on how many graphs are kept. `look` sees the loss, what it was taken over and the last micro-batch with its graph.
    """
    first_kept = len(micros) - budget.kept(len(micros))
    with torch.no_grad():
        parts = [encode(micro) for micro in micros[:first_kept]]
    kept = [budget.counted(lambda micro=micro: encode(micro)) for micro in micros[first_kept:]]
    whole = _joined([*parts, *kept])
    parts.clear()  # joined, they would be held twice
    output = look(objective(whole), whole, kept[-1])
    backward(output.loss)
    size = len(kept[0].image_embed)
    gradients = {name: row.grad.split(size) for name, row in whole.rows().items() if row.grad is not None}
    of_model = {name: getattr(whole, name).grad for name in _of_model(whole) if getattr(whole, name).grad is not None}
    for number in reversed(range(len(micros))):
        encoded = kept.pop() if kept else encode(micros[number])
        rows = encoded.rows() | {name: getattr(encoded, name) for name in of_model}
        pushed = {name: parts[number] for name, parts in gradients.items()} | of_model
        of_model = {}  # once, with the last micro-batch
        torch.autograd.backward([rows[name] for name in pushed], list(pushed.values()))
        del encoded, rows
    return whole, output


def _of_model(output: TowerOutput) -> list[str]:
    return [name for name in ("logit_scale", "logit_bias") if getattr(output, name) is not None]


def _joined(parts: Sequence[TowerOutput]) -> TowerOutput:
    """Embeddings of all parts, scale and bias as leaves of a new graph, whose backward reaches no parameter.

    So each forward has one backward, and a wrapper that frees weights between the two knows when it may.
    """
    last, rows = parts[-1], [part.rows() for part in parts]
    leaves = {name: torch.cat([of_part[name].detach() for of_part in rows]) for name in rows[-1]}
    of_model = {name: getattr(last, name).detach() for name in _of_model(last)}
    for name, leaf in leaves.items():
        leaf.requires_grad_(rows[-1][name].requires_grad)
    for name, leaf in of_model.items():
        leaf.requires_grad_(getattr(last, name).requires_grad)
    return replace(last.with_rows(leaves), **of_model)
