"""Formats of an export, one a file; a new one is a `Writer` in this table."""

from mmclip.release.formats.onnx import OnnxWriter
from mmclip.release.formats.open_clip import OpenClipWriter
from mmclip.release.formats.safetensors import SafetensorsWriter
from mmclip.release.formats.transformers import TransformersWriter
from mmclip.release.formats.writer import Writer

WRITERS = (OpenClipWriter(), TransformersWriter(), SafetensorsWriter(), OnnxWriter())
FORMATS: dict[str, Writer] = {writer.name: writer for writer in WRITERS}
"""By the word that `mmclip export --format` takes."""

DEFAULT_FORMAT = "open_clip"

__all__ = ["DEFAULT_FORMAT", "FORMATS", "Writer"]
