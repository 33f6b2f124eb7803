"""Locks, sizes, patch dropout and how the towers compute: the `[towers]` table and two fields of `[model]`."""

from typing import Any

from mmclip.errors import UserError
from mmclip.towers.architecture import model_cfg_of
from mmclip_launch.import_flags.draft import Draft

LOCKS = {
    "lock-image": ("towers.lock_image", "lock-image-unlocked-groups", "towers.unlocked_image_groups"),
    "lock-text": ("towers.lock_text", "lock-text-unlocked-layers", "towers.unlocked_text_groups"),
}


def towers(draft: Draft) -> None:
    """What open_clip does to towers after it has built them."""
    _sizes(draft)
    for name, (field, groups, groups_field) in LOCKS.items():
        if draft[name]:
            draft.put(field, True, draft.said(name))
            if draft[groups]:
                draft.put(groups_field, draft[groups], draft.said(groups))
    vision, text = _tables(draft)
    if draft["lock-image"]:
        draft.put(
            "towers.freeze_batch_norm", draft["lock-image-freeze-bn-stats"], draft.said("lock-image-freeze-bn-stats")
        )
    if draft["lock-text"] and "hf_model_name" in text and not draft["lock-text-freeze-layer-norm"]:
        draft.lose(
            "lock-text", "open_clip goes on training the layer norms of this locked text tower; here they are locked"
        )
    if draft["torchcompile"]:
        draft.put("towers.compile", True, f"{draft.said('torchcompile')}: each block, not the whole model")
    if draft["grad-checkpointing"] and not isinstance(vision.get("layers"), list):  # there open_clip ignores it
        draft.put("towers.activation_checkpointing", True, draft.said("grad-checkpointing"))


def _sizes(draft: Draft) -> None:
    size = draft["force-image-size"]
    if size and len(set(size)) > 1:
        draft.refuse("force-image-size", "model.image_size is the side of a square")
    elif size:
        draft.put("model.image_size", size[0], draft.said("force-image-size"))
    if draft["force-context-length"] is not None:
        draft.put("model.context_length", draft["force-context-length"], draft.said("force-context-length"))
    if draft["force-patch-dropout"] is not None:
        draft.put("towers.patch_dropout", draft["force-patch-dropout"], draft.said("force-patch-dropout"))


def _tables(draft: Draft) -> tuple[dict[str, Any], dict[str, Any]]:
    """Both tables of the architecture; empty where a folder holds it."""
    try:
        cfg = model_cfg_of(draft["model"])
    except UserError:
        return {}, {}
    return cfg["vision_cfg"], cfg["text_cfg"]
