"""Evaluation sets of a run and of `mmclip eval`: how they are opened, encoded and drawn."""
