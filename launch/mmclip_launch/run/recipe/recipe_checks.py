"""What loses fine-tuning runs, refused or named before the first step."""

from mmclip.errors import UserError
from mmclip_launch.run.config import RunConfig

LARGE_LR, LOST_LR = 1e-4, 1e-3
"""Above the first, weights of a whole pretrained tower usually forget; from the second on they are learnt anew."""
WARMUP_SHARE = 0.1


def refuse_lost_runs(config: RunConfig) -> list[str]:
    """Refuse settings that destroy what the weights can do; those that are merely doubtful come back in words.

    Raises:
        UserError: naming the field.
    """
    warnings: list[str] = []
    lr, whole = config.optimizer.lr, _learns_a_whole_tower(config)
    if whole and lr >= LOST_LR:
        raise UserError(
            f"optimizer.lr={lr:g}: at {LOST_LR:g} and above a pretrained tower is learnt anew, and what it could do is lost; "
            "expected about 1e-5, or lock the towers or adapt them (towers.lock_image, towers.lock_text, towers.lora); "
            "`mmclip train` refuses nothing"
        )
    if whole and lr > LARGE_LR:
        warnings.append(
            f"optimizer.lr={lr:g} is large for weights that are to keep what they can do: expected about 1e-5 "
            "(at 1e-4 recall fell from .17 to .05 within an epoch: open_clip issue 1093)"
        )
    if not config.retained.datasets:
        raise UserError(
            "[retained] names nothing that should stay as it is: expected a suite, such as --retained packaged:emoji or a file "
            "of [[datasets]] with what the weights are good at"
        )
    return warnings


def warn_of_warmup(config: RunConfig, total_steps: int) -> list[str]:
    """Name a warmup that takes more of a run from weights that exist than is of use; one that outlasts it is refused."""
    if config.model.init is None:
        return []
    total = total_steps * config.global_batch_size
    warmup = config.schedule.warmup(total)
    if warmup <= WARMUP_SHARE * total or not total:
        return []
    return [
        f"schedule.warmup_samples={warmup:,} is {warmup / total:.0%} of the {total:,} samples of the run: expected at most "
        f"{WARMUP_SHARE:.0%}, so that the learning rate is at its peak for most of it"
    ]


def _learns_a_whole_tower(config: RunConfig) -> bool:
    towers = config.towers
    return towers.adapters is None and not (towers.lock_image and towers.lock_text)
