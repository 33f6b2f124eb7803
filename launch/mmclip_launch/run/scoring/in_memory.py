"""Scores of models that stand in memory alone, by the pass and the sets of `mmclip eval`."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mmclip.errors import UserError
from mmclip.release.between import Blend
from mmclip.towers.two_tower import TwoTower
from mmclip.towers.weights import weights_sha256
from mmclip_data.features.encoder import Encoder
from mmclip_data.features.model import Towers
from mmclip_eval.results.headline import Headline, headlines
from mmclip_eval.results.result import ModelIdentity
from mmclip_launch.run.beginning.preflight import refuse_equal_prompts, refuse_unwritable
from mmclip_launch.run.peers import refuse_several
from mmclip_launch.run.scoring.dataset_flags import add_dataset_flags, dataset_of, datasets_of_run
from mmclip_launch.run.scoring.encoding import EncodeOptions, add_encode_flags, options_of_flags
from mmclip_launch.run.scoring.evaluating import evaluate_sets
from mmclip_launch.run.scoring.evaluation_sets import Sets
from mmclip_launch.run.scoring.identity import architecture_of
from mmclip_launch.screen import Screen


def add_scoring_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that say what to measure on, and how; those of `mmclip eval`."""
    parser.add_argument(
        "--suite", action="append", default=[], type=Path, metavar="FILE", help="sets in a TOML file; may be repeated"
    )
    parser.add_argument(
        "--task", action="append", default=[], help="measure this task alone; may be repeated (default: each set's own)"
    )
    add_dataset_flags(parser)
    add_encode_flags(parser)
    parser.add_argument("--raw", action="store_true", help="the weights themselves where a run averages them")


@dataclass
class Scorer:
    """Evaluates one model after another on the same sets; results are written to `results` as they come."""

    sets: Sets
    how: EncodeOptions
    results: Path
    screen: Screen
    architecture: str
    _known: dict[str, tuple[Headline, ...]] = field(default_factory=dict, init=False)

    @classmethod
    def of_flags(cls, options: argparse.Namespace, sources: Sequence[str], output: Path, screen: Screen) -> "Scorer":
        """Of `add_scoring_flags`; without a set, those of the run that the last source belongs to are taken.

        Raises:
            UserError: there is no set, one is unsound, or several processes were started.
        """
        refuse_several("models in memory are scored by one")
        how = options_of_flags(options, screen.warn)
        sets = Sets.of_flags(
            [dataset_of(text, options) for text in options.dataset], options.suite, options.task, screen.say
        )
        if not sets.settings:
            sets = sets.with_own(datasets_of_run(sources[-1]))
        sets.opened()  # a wrong path is told before a model is loaded
        refuse_unwritable(output)
        return cls(sets, how, output / "results", screen, architecture_of(sources[-1]))

    def check(self, blend: Blend) -> None:
        """Refuse prompts that do not fit the context.

        Raises:
            UserError: naming the set.
        """
        refuse_equal_prompts(self.sets.opened(), blend.model.tokenizer)

    def score(self, model: TwoTower, name: str) -> tuple[str, tuple[Headline, ...]]:
        """The hash of the model's weights, and its headlines; weights that were measured before are not measured again.

        Raises:
            UserError: an embedding is not finite, or no task of the sets gives a score.
        """
        digest = weights_sha256(model)
        if digest not in self._known:
            self._known[digest] = self._measured(model, name, digest)
        return digest, self._known[digest]

    def _measured(self, model: TwoTower, name: str, digest: str) -> tuple[Headline, ...]:
        identity = ModelIdentity(self.architecture, self.how.precision, checkpoint=name, weights_sha256=digest)
        encoder = Encoder(Towers(model, self.how.precision), store=self.how.store, pace=self.how.pace)
        results = evaluate_sets(
            encoder,
            self.sets.opened(),
            name,
            self.screen,
            identity,
            seed=self.how.seed,
            write=lambda result: result.write(self.results),
        )
        if self.how.store is not None:
            self.how.store.close()
        found = headlines(results)
        if not found:
            tasks = ", ".join(sorted({result.task for result in results}))
            raise UserError(f"no figure to choose by: {tasks} give no score; add a set with classes or captions")
        return found
