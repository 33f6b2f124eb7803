"""`mmclip finetune RECIPE --init SOURCE --data SHARDS`: from weights that exist to weights for a task, without forgetting.

mmclip finetune contrastive --init runs/demo --data embedded:emoji/unseen-style-fluent.tar
mmclip finetune flyp --init open_clip:ViT-B-32/laion2b_s34b_b79k --data data/leaves/train --max-forgetting 0.02
torchrun --nproc_per_node 2 -m mmclip_launch.finetune flyp --init SOURCE --data data/leaves/train
mmclip finetune few_shot --init runs/demo --data data/fashion-mnist/train --test data/fashion-mnist --shots 1 2 4 8 16
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from mmclip.errors import UserError
from mmclip_launch.low_label import low_label_curve, read_draws
from mmclip_launch.run.config import RunConfig, load_run_config
from mmclip_launch.run.config_files import meant, packaged_config, recipes
from mmclip_launch.run.peers import rank
from mmclip_launch.run.recipe.recipe_checks import refuse_lost_runs
from mmclip_launch.screen import Screen
from mmclip_launch.train import train

SHORT = {
    "--init": "--model.init",
    "--data": "--data.source.shards",
    "--retained": "--retained.suite",
    "--max-forgetting": "--retained.max_forgetting",
}
"""Flags of this verb, and what they stand for in a run file."""
HELP = """usage: mmclip finetune RECIPE --init SOURCE --data SHARDS [flags]

RECIPE is the path of a recipe (a run file), or the name of one that comes with mmclip:
{recipes}

  --init SOURCE           weights to start from: a run, a checkpoint, a folder, open_clip:ARCH/TAG, ...
  --data SHARDS           what to learn from (data.source.shards)
  --retained SUITE        a suite file whose figures must stay; packaged:emoji by default
  --max-forgetting SHARE  the most that its figures may fall in the mean, such as 0.02; more fails the command (exit code 4)
  --output FOLDER         the run folder
  --resume                go on with the run in it
  --shots 1 2 4 8 16      a curve over so many labels a class, each with draws --seeds 0 1 2, measured on --test SET
and every flag of `mmclip train`; docs/finetuning.md tells which recipe to take."""


def main(arguments: Sequence[str]) -> None:
    """Parse the command line, check the recipe and train."""
    words = list(arguments)
    if not words or words[0] in ("-h", "--help"):
        print(HELP.format(recipes="\n".join(f"  {name:14}{line}" for name, line in recipes("finetune").items())))
        if not words:
            raise SystemExit(2)
        return
    resume = "--resume" in words
    words = [word for word in words if word != "--resume"]
    draws, test, flags = read_draws(words[1:])
    config, screen = recipe(words[0], flags), Screen(quiet=rank() > 0)
    for line in refuse_lost_runs(config):
        screen.warn(line)
    if draws is None:
        train(config, resume)
    else:
        low_label_curve(config, test, draws, screen)


def recipe(name: str, flags: Sequence[str]) -> RunConfig:
    """The run of a recipe under the flags of this verb.

    Raises:
        UserError: there is no such recipe, no source of weights is given, or a packaged recipe is not told what to learn from.
    """
    is_packaged = not name.endswith(".toml")
    path = packaged_recipe(name) if is_packaged else Path(name)
    long = [_long(flag) for flag in flags]
    config = load_run_config(path, long, program=f"mmclip finetune {name}")
    if config.model.init is None:
        raise UserError(
            f"finetune {name}: no weights to start from: expected --init SOURCE, such as a run folder, local-dir:FOLDER "
            "or open_clip:ViT-B-32/laion2b_s34b_b79k; `mmclip models` lists what loads"
        )
    if is_packaged and not any(flag.startswith("--data.source.") for flag in long):
        raise UserError(
            f"finetune {name}: nothing to learn from: expected --data SHARDS (a folder of shards from `mmclip shards "
            "make`, a pattern, or embedded:emoji/unseen-style-fluent.tar to try it out)"
        )
    return config


def recipe_names() -> list[str]:
    """The recipes that come with mmclip."""
    return list(recipes("finetune"))


def packaged_recipe(name: str) -> Path:
    """The file of a recipe that comes with mmclip.

    Raises:
        UserError: there is no such recipe.
    """
    names = recipe_names()
    if name not in names:
        guess = meant(name, names)
        raise UserError(
            f"no recipe {name!r}{guess} expected the path of a recipe (.toml), or one of {', '.join(names)}"
        )
    return packaged_config(f"finetune/{name}")


def _long(flag: str) -> str:
    name, equals, value = flag.partition("=")
    return f"{SHORT.get(name, name)}{equals}{value}"


if __name__ == "__main__":
    from mmclip_launch.cli import end, run_verb

    end(run_verb(main, sys.argv[1:]))
