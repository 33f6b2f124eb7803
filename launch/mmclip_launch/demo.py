"""`mmclip demo`: the whole path in a few minutes on two cores: train on two drawing styles of emoji, score on a third.

mmclip demo
mmclip demo --seed 1 --output runs/demo-1
"""

from collections.abc import Sequence
from pathlib import Path

from mmclip_eval.report.pages.run_page import PAGE
from mmclip_launch.run.config import load_run_config
from mmclip_launch.run.config_files import packaged_config
from mmclip_launch.screen import Screen
from mmclip_launch.train import train

NEXT = """
What you just did: {samples:,} pictures in two drawing styles (Noto, Twemoji) with their captions trained two towers from
nothing. `emoji-unseen-style` shows the same things drawn in a third style (Fluent) that was never seen;
`emoji-unseen-concept` shows things whose names were never seen either.

Next:
  open {page} in a browser: curves, scores, and what the model says of unseen pictures
  mmclip eval {folder}                     score it again
  mmclip train {config} --seed 1 --output runs/demo-1
  python -c 'import mmclip; print(mmclip.load("{folder}").embed_texts(["red apple"]).shape)'"""


def main(arguments: Sequence[str]) -> None:
    """Train the demo, or continue it where it was stopped; flags are those of `mmclip train`."""
    path = packaged_config("demo")
    config = load_run_config(path, arguments, program="mmclip demo")
    folder = train(config, resume=(Path(config.output) / "config.toml").is_file())
    total = (config.length.steps or 0) * config.global_batch_size
    Screen().say(NEXT.format(samples=total, folder=folder, config=path, page=folder / PAGE))
