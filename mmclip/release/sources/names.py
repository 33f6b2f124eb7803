"""Names of weights as open_clip, CLIP_benchmark and the Hub write them, for those who leave out what stands before them."""

import re
from pathlib import Path

from mmclip.towers.architecture import names_of_open_clip

REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


def meant_by(text: str) -> str:
    """What to add to the message about a path that is none: the source that was meant, where it can be told.

    open_clip's architectures stand alone (`ViT-B-32`) or with a tag behind a comma or a slash; `ORG/NAME` may be a repository.
    """
    arch, _, tag = text.replace(",", "/", 1).partition("/")
    if arch in names_of_open_clip():
        import open_clip

        tags = open_clip.list_pretrained_tags_by_model(arch)
        meant = f"{arch}/{tag if tag in tags else 'TAG'}"
        known = "" if tag in tags else f" its tags: {', '.join(tags) or 'none'}"
        return f"; did you mean open_clip:{meant}?{known}"
    if REPOSITORY.fullmatch(text) and not Path(text).parent.exists():
        return f"; for a repository of the Hugging Face Hub, hf-hub:{text}"
    return ""
