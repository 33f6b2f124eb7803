"""`LabelsConfig`: classes in place of captions, for training sets that have a label a picture and no text."""

from mmclip.config import config
from mmclip.errors import UserError


@config
class LabelsConfig:
    """Where the class of a sample is, what it is called, and what is said of it. Words are those of evaluation sets."""

    place: str | None = None
    """Where the class stands: `cls` (index or name), `json:FIELD` or `npy:INDEX`; without it a run learns from captions."""
    class_names: str | tuple[str | tuple[str, ...], ...] | None = None
    """A packaged list, a file, or the names (several of one class as a list); None: the folder's own, else the labels."""
    templates: str | tuple[str, ...] | None = None
    """A packaged prompt set, a file, or the templates ({c} is the class name); None: the folder's own file."""
    language: str = "en"
    """Of packaged names and templates."""
    shots: int | None = None
    """Learn from so many samples of each class alone, drawn by `shots_seed`; fewer are among more."""
    shots_seed: int = 0
    """Another one draws others."""

    def __post_init__(self) -> None:
        if self.shots is not None and self.shots < 1:
            raise UserError(f"data.labels.shots={self.shots}: expected at least 1, or none for all samples")
        others = {name: value for name, value in vars(self).items() if value not in (None, "en", 0)}
        if self.place is None and others:
            raise UserError(
                f"data.labels.{next(iter(others))} says something of classes: say where they are, data.labels.place"
            )
