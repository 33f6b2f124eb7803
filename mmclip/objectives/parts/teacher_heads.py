"""A second instance of a head that follows the first as a moving average of its weights; no gradient reaches it."""

from collections.abc import Callable
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mmclip.ops.shards import local

HeadT = TypeVar("HeadT", bound=nn.Module)


def teacher_of(head: HeadT, build: Callable[[], HeadT]) -> HeadT:
    """A head that `build` makes anew and that starts with the weights of `head`.

    Not a deep copy: tensors that a graph has made, such as those of torch's weight norm, have none.
    """
    teacher = build()
    teacher.load_state_dict(head.state_dict())
    return teacher.requires_grad_(False)


@torch.no_grad()
def follow(teacher: nn.Module, head: nn.Module, momentum: float, skipped: Float[Tensor, ""]) -> None:
    """Move to `momentum` x teacher + (1 - momentum) x head, and copy buffers; nothing moves where `skipped` is 1."""
    heads, buffers = dict(head.named_parameters()), dict(head.named_buffers())
    for name, weight in teacher.named_parameters():
        local(weight).lerp_(local(heads[name]), (1 - momentum) * (1 - skipped).to(weight.dtype))
    for name, buffer in teacher.named_buffers():  # running statistics and the like are averages already
        buffer.copy_(torch.where(skipped > 0, buffer, buffers[name]))
