"""`ContraSimConfig`: how the learned similarity is trained, and what has to hold before its figures may be read."""

from mmclip.config import config
from mmclip.errors import UserError

LEAST = {"steps": 1, "batch_size": 1, "pair_batch_size": 2, "most_rows": 1, "seed": 0}


@config
class ContraSimConfig:
    """The published encoder and optimizer (Rahamim and Belinkov 2024, section 4 and the authors' code)."""

    hidden: tuple[int, ...] = (512, 256)
    """Widths between the features and what is compared."""
    out: int = 128
    """Width of what is compared."""
    temperature: float = 0.07
    """Of the loss."""
    lr: float = 1e-4
    """Of Adam."""
    weight_decay: float = 5e-4
    """Of Adam, added to the gradient."""
    steps: int = 500
    """Of the optimizer; the paper's 50 epochs of 10,000 examples in batches of 1,024 are as many."""
    batch_size: int = 32
    """Examples of a step over layers, each of which comes with every layer of every model."""
    pair_batch_size: int = 256
    """Pairs of a step over pairs, where each meets all others."""
    test_share: float = 1 / 3
    """Share of the examples that training does not see."""
    most_rows: int = 2000
    """Examples of both kinds together: where there are more, so many are drawn."""
    seed: int = 0
    """Of everything drawn: splits, weights, batches, and what the controls permute."""

    def __post_init__(self) -> None:
        if not self.hidden or min(*self.hidden, self.out) < 1:
            raise UserError(
                f"hidden={self.hidden}, out={self.out}: expected widths of 1 or more, such as (512, 256), 128"
            )
        for name in ("temperature", "lr"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name}={getattr(self, name)}: expected a number above 0")
        for name, least in LEAST.items():
            if getattr(self, name) < least:
                raise UserError(f"{name}={getattr(self, name)}: expected {least} or more")
        if not self.weight_decay >= 0:
            raise UserError(f"weight_decay={self.weight_decay}: expected 0 or more, such as 5e-4")
        if not 0 < self.test_share < 1:
            raise UserError(f"test_share={self.test_share}: expected a share between 0 and 1, such as 0.33")
