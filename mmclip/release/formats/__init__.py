"""Formats of an export, one a file; a new one is a `Writer` in this table."""

from mmclip.release.formats.open_clip import OpenClipWriter
from mmclip.release.formats.writer import Writer

FORMATS: dict[str, Writer] = {writer.name: writer for writer in (OpenClipWriter(),)}
"""By the word that `mmclip export --format` takes."""

DEFAULT_FORMAT = "open_clip"

__all__ = ["DEFAULT_FORMAT", "FORMATS", "Writer"]
