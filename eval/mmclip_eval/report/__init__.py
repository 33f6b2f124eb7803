"""Self-contained pages: a run's curves and scores, what the model sees in held-out pictures, checkpoints side by side.

`pages/` puts a page together from chapters: of a run's `training/`, of its `scores/`, and of the evaluation `sets/`.
`figures/` draws, from arrays to one `<svg>`; `templates/` lays out. What all of them need stands beside this line.
"""
