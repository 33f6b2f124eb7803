"""Chapters about how a run learned, from what its folder keeps."""
