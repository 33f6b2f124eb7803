"""How the towers compute, and which parts of them learn."""

from mmclip_launch.import_flags.draft import Draft


def towers(draft: Draft) -> None:
    """Locks, patch dropout, activation checkpointing and compilation."""
    if draft["force-patch-dropout"] is not None:
        draft.put("towers.patch_dropout", draft["force-patch-dropout"], draft.said("force-patch-dropout"))
    for name, field in (("grad-checkpointing", "activation_checkpointing"), ("torchcompile", "compile")):
        if draft[name]:
            draft.put(f"towers.{field}", True, draft.said(name))
    _lock_image(draft)
    _lock_text(draft)


def _lock_image(draft: Draft) -> None:
    if not draft["lock-image"]:
        return
    draft.put("towers.lock_image", True, draft.said("lock-image"))
    if draft["lock-image-unlocked-groups"]:
        groups = "lock-image-unlocked-groups"
        draft.put("towers.unlocked_image_groups", draft[groups], draft.said(groups))
    frozen = "lock-image-freeze-bn-stats"
    draft.put("towers.freeze_batch_norm", draft[frozen], draft.said(frozen))


def _lock_text(draft: Draft) -> None:
    if not draft["lock-text"]:
        return
    draft.put("towers.lock_text", True, draft.said("lock-text"))
    if draft["lock-text-unlocked-layers"]:
        layers = "lock-text-unlocked-layers"
        draft.put("towers.unlocked_text_groups", draft[layers], draft.said(layers))
    if not draft["lock-text-freeze-layer-norm"]:
        draft.lose(
            "lock-text",
            "without --lock-text-freeze-layer-norm open_clip stops at its own text towers, and trains the LayerNorms of "
            "Hugging Face's; mmclip locks them like other weights",
        )
