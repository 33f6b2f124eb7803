"""The `[towers]` table of a run: how the towers compute, and which parts of them learn."""

from typing import Literal

from mmclip.config import config
from mmclip.errors import UserError

Switch = Literal["auto", "on", "off"]
Tower = Literal["image", "text"]


@config
class LoraTable:
    """Train low-rank adapters of the towers' blocks and nothing else (LoRA, Hu et al. 2022); scale and bias rest too."""

    rank: int | None = None
    """Of each adapter, such as 8; without it there are none. CLIP-LoRA (Zanella and Ben Ayed 2024) takes 2."""
    alpha: int | None = None
    """An adapter's output is scaled by alpha / rank; by default by 1."""
    dropout: float = 0.0
    """Of what goes into an adapter, drawn anew on each rank and in each micro-batch: above 0, a run on other ranks differs."""
    towers: Literal["both", "image", "text"] = "both"
    """Which towers get adapters; the other one is frozen."""
    targets: tuple[str, ...] = ("attention",)
    """attention (queries, keys, values, as CLIP-LoRA), linear (all linear layers of the blocks), or ends of layers' names."""

    def __post_init__(self) -> None:
        for name, value in (("rank", self.rank), ("alpha", self.alpha)):
            if value is not None and value < 1:
                raise UserError(f"towers.lora.{name}={value}: expected at least 1, such as 8")
        if self.rank is None and (
            self.alpha or self.dropout or self.towers != "both" or self.targets != ("attention",)
        ):
            raise UserError("towers.lora without a rank makes no adapters: set towers.lora.rank, such as 8")
        if not 0 <= self.dropout < 1:
            raise UserError(f"towers.lora.dropout={self.dropout}: expected a share from 0 to below 1")
        if not self.targets or not all(self.targets):
            raise UserError(f"towers.lora.targets={list(self.targets)}: expected attention, linear, or ends of names")

    @property
    def of(self) -> tuple[Tower, ...]:
        """The towers that get adapters."""
        return ("image", "text") if self.towers == "both" else (self.towers,)


@config
class TowersConfig:
    """How the towers compute, and which parts learn; but for patch dropout and locks, no setting changes an embedding."""

    text_groups: Literal["auto"] | int = "auto"
    """Groups of captions of like length that the text tower runs one by one; auto: by length, 1 where padding is read."""
    pooled_last_block: Switch = "auto"
    """Compute the last block for the pooled token alone; auto: in the towers where nothing else reads its output."""
    patch_dropout: float | None = None
    """Share of the patches that training drops (FLIP, Li et al. 2023); by default the architecture's own, mostly 0."""
    unmasked_tail: float = 0.0
    """Last share of the run that sees all patches (FLIP, section 3)."""
    activation_checkpointing: bool = False
    """Keep the input of each block alone and compute the rest again in the backward pass: a third more work."""
    compile: bool = False
    """Compile each block with torch.compile, for the few shapes that groups and patches have."""
    compile_backend: str = "inductor"
    """The backend of torch.compile."""
    lock_image: bool = False
    """Train no weight of the image tower (LiT, Zhai et al. 2022), but its last `unlocked_image_groups`."""
    unlocked_image_groups: int = 0
    """Groups at the end of a locked image tower that train, counted as open_clip does."""
    lock_text: bool = False
    """Train no weight of the text tower, but its last `unlocked_text_groups`."""
    unlocked_text_groups: int = 0
    """Groups at the end of a locked text tower that train, counted as open_clip does."""
    freeze_batch_norm: bool = True
    """Keep the statistics of batch norms in locked parts too; false moves them on, as open_clip does by default."""
    rest_batch_norm: bool = False
    """Let all batch norms use the statistics that the weights came with, and keep them: for fine-tuning, where those of a small
    set would replace them within a few steps. Their gains and offsets learn."""
    lora: LoraTable = LoraTable()

    def __post_init__(self) -> None:
        if self.text_groups != "auto" and self.text_groups < 1:
            raise UserError(
                f"towers.text_groups={self.text_groups}: expected auto, or at least 1 (one group: no sorting)"
            )
        for name in ("patch_dropout", "unmasked_tail"):
            share = getattr(self, name)
            if share is not None and not 0 <= share < 1:
                raise UserError(f"towers.{name}={share}: expected a share from 0 to below 1, such as 0.5")
        for tower in ("image", "text"):
            name = f"unlocked_{tower}_groups"
            groups = getattr(self, name)
            if groups < 0:
                raise UserError(f"towers.{name}={groups}: expected 0 or more")
            if groups and not getattr(self, f"lock_{tower}"):
                raise UserError(f"towers.{name}={groups} counts groups of a locked tower: set towers.lock_{tower} too")
        if self.lock_image and self.unlocked_image_groups == 0 and self.patch_dropout:
            raise UserError(
                "towers.patch_dropout drops patches from an image tower that towers.lock_image keeps from learning: "
                "remove one of the two"
            )
        if self.adapters is not None:
            self._refuse_beside_lora(self.adapters)

    @property
    def adapters(self) -> LoraTable | None:
        """The table of the adapters that are trained in place of weights; None where weights are."""
        return None if self.lora.rank is None else self.lora

    def _refuse_beside_lora(self, lora: LoraTable) -> None:
        for tower in lora.of:
            if getattr(self, f"lock_{tower}"):
                raise UserError(
                    f"towers.lock_{tower} beside adapters of the {tower} tower: adapters keep its weights as they are; remove "
                    f"the lock, or leave the tower out of towers.lora.towers"
                )
        for tower in ("image", "text"):
            if getattr(self, f"unlocked_{tower}_groups"):
                raise UserError(
                    f"towers.unlocked_{tower}_groups beside towers.lora, which trains adapters alone: remove it"
                )
        if lora.dropout and self.activation_checkpointing:
            raise UserError(
                "towers.lora.dropout beside towers.activation_checkpointing: what is computed again would draw anew; "
                "set one of the two to 0 or false"
            )
