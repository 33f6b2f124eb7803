"""Fields of a run that cannot be together; each pair is refused by name before anything is opened."""

from mmclip.errors import UserError
from mmclip.objectives.base import ObjectiveNeeds
from mmclip.objectives.combined import needs_of
from mmclip_data.loading.augment import AugmentConfig
from mmclip_data.loading.streaming import StreamingConfig
from mmclip_launch.run.fields import RunFields
from mmclip_launch.run.pairing import refuse_unpaired


def refuse_conflicts(config: RunFields) -> None:
    """Refuse what contradicts itself.

    Raises:
        UserError: naming the fields.
    """
    _refuse_half_of_classes(config)
    refuse_unpaired(config)
    needs = needs_of(config.objective, config.auxiliary)
    if config.objective.type == "distill" and config.image_features is not None:
        raise UserError("objective 'distill' needs pictures for the teacher, and with image_features there are none")
    if config.interpolation.alphas:
        _refuse_blind_interpolation(config)
    if config.resolution:
        _refuse_beside_resolution(config, needs)
    if config.image_features is not None:
        _refuse_beside_image_features(config, needs)
    if config.text_features is not None:
        _refuse_beside_text_features(config, needs)
    if config.sharding.method == "fsdp2":
        _refuse_beside_sharding(config, needs)


def _refuse_blind_interpolation(config: RunFields) -> None:
    if config.early_stopping.metric is None or not (config.retained.datasets or config.retained.suite):
        raise UserError(
            "interpolation.alphas are chosen by the figure of a dev split and by what is to be retained: it needs "
            "early_stopping.metric and [retained]"
        )
    if config.head.start is not None:
        raise UserError(
            "interpolation.alphas: the start has no class head to interpolate with: use prompts (recipe flyp)"
        )


def _refuse_half_of_classes(config: RunFields) -> None:
    """The objective over classes, its head and the classes themselves need each other."""
    classify, lengthless = config.objective.type == "classify", config.length.steps == 0
    if classify and (config.head.start is None or config.data.labels.place is None or not config.towers.lock_text):
        raise UserError(
            "objective 'classify' learns a head over classes, and the text tower gets no gradient: it needs head.start, "
            "data.labels.place and towers.lock_text = true"
        )
    if config.head.start is not None and not classify:
        raise UserError(
            f"[head] is for objective 'classify', and this is {config.objective.type!r}: remove one of them"
        )
    if lengthless and config.head.start is None:
        raise UserError(
            "length.steps=0: expected at least 1, since nothing is fitted before the first step ([head] is)"
        )
    if isinstance(config.data.source, StreamingConfig) and (config.data.labels.place or config.data.held_out.share):
        raise UserError(
            "data.labels and data.held_out need to know every sample before the run, which a stream does not: index the "
            'shards and use type = "tars"'
        )


def _refuse_beside_resolution(config: RunFields, needs: ObjectiveNeeds) -> None:
    if isinstance(config.data.source, StreamingConfig):
        raise UserError(
            "resolution: a stream would begin anew at each change of size: index the shards and use type = "
            '"tars", or remove resolution'
        )
    if needs.momentum is not None or any(view.tokens for view in needs.views):
        raise UserError(
            "resolution: momentum towers and the decoder of masked patches keep the size of the model: remove resolution, or "
            "choose another objective"
        )
    if config.resume_open_clip is not None:
        raise UserError(
            "resolution: a checkpoint that resume_open_clip takes over has one size: remove one of the two, or start "
            "from its weights by model.init"
        )


def _refuse_beside_image_features(config: RunFields, needs: ObjectiveNeeds) -> None:
    towers, data = config.towers, config.data
    changed = [name for name, value in vars(data.augment).items() if value != getattr(AugmentConfig(), name)]
    reasons = {
        "towers.lock_image = false": not towers.lock_image,
        f"towers.unlocked_image_groups = {towers.unlocked_image_groups}": towers.unlocked_image_groups > 0,
        "towers.freeze_batch_norm = false": not towers.freeze_batch_norm,
        f"towers.patch_dropout = {towers.patch_dropout}": bool(towers.patch_dropout),
        "resolution": bool(config.resolution),
        'data.augment_on = "device"': data.augment_on == "device",
        "data.views": bool(data.views),
        "objectives that look at further views": bool(needs.views),
        "objectives with momentum towers": needs.momentum is not None,
        **{f"data.augment.{name} = {getattr(data.augment, name)}": True for name in changed},
        'data.source.type = "streaming"': isinstance(data.source, StreamingConfig),
    }
    refused = [name for name, applies in reasons.items() if applies]
    if refused:
        raise UserError(
            f"image_features = {config.image_features!r} encodes each picture once, at evaluation preprocessing, by an image "
            f"tower that never changes (towers.lock_image = true); that excludes {', '.join(refused)}: change these, or "
            "leave image_features out"
        )


def _refuse_beside_text_features(config: RunFields, needs: ObjectiveNeeds) -> None:
    towers = config.towers
    reasons = {
        "towers.lock_text = false": not towers.lock_text,
        f"towers.unlocked_text_groups = {towers.unlocked_text_groups}": towers.unlocked_text_groups > 0,
        'data.source.type = "streaming"': isinstance(config.data.source, StreamingConfig),
        "objectives without pairs": not needs.pairs,
        "objectives with momentum towers": needs.momentum is not None,
    }
    refused = [name for name, applies in reasons.items() if applies]
    if refused:
        raise UserError(
            f"text_features = {config.text_features!r} encodes each caption once, by a text tower that never changes "
            f"(towers.lock_text = true); that excludes {', '.join(refused)}: change these, or leave text_features out"
        )


def _refuse_beside_sharding(config: RunFields, needs: ObjectiveNeeds) -> None:
    reasons = {
        'precision = "fp16" (each process would scale by its own gradients; take bf16)': config.precision == "fp16",
        "channels_last": config.channels_last,
        "resolution": bool(config.resolution),
        "towers.lora": config.towers.adapters is not None,
        "[head]": config.head.start is not None,
        "image_features": config.image_features is not None,
        "text_features": config.text_features is not None,
        "resume_open_clip": config.resume_open_clip is not None,
        "objectives that look at further views": bool(needs.views),
        "objectives with momentum towers": needs.momentum is not None,
    }
    refused = [name for name, applies in reasons.items() if applies]
    if refused:
        raise UserError(
            f'sharding.method = "fsdp2" does not go with {", ".join(refused)}: change these, or train with '
            'sharding.method = "none" (a run may change it when it resumes)'
        )
