"""What a format of an export has to know of itself."""

from pathlib import Path
from typing import Protocol, runtime_checkable

from mmclip.towers.two_tower import TwoTower


@runtime_checkable
class Writer(Protocol):
    """Writes the towers in one format, and compares what its own reader makes of the files with the towers."""

    name: str
    """As `--format` takes it."""
    library: str
    """The library that reads it, as the Hugging Face Hub's `library_name` has it and as messages name it."""
    weights_file: str
    """The file whose SHA-256 stands in the card."""
    files: frozenset[str]
    """Files that every export of this format holds: they tell an export from a folder of somebody's work."""

    def write(self, model: TwoTower, folder: Path) -> None:
        """Write everything but the card into an existing folder.

        Raises:
            UserError: the format cannot hold these towers; the message names the part.
        """
        ...

    def difference(self, model: TwoTower, folder: Path) -> float:
        """Largest difference of an embedding that the format's own reader makes of `folder`; see `comparison`.

        Raises:
            UserError: the reader does not open it, or the difference is over `comparison.TOLERANCE`.
        """
        ...

    def usage(self, folder: str) -> str:
        """Python that opens the export at `folder`, as the card shows it."""
        ...
