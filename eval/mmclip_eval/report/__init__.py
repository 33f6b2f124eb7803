"""One self-contained page about a run: its curves, its scores, and what the model sees in held-out pictures."""
