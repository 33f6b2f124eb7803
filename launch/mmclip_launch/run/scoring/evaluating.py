"""One model on several sets: of a checkpoint with all that is told and written, or in memory with the figures alone."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from mmclip_data.features.encoder import Encoder
from mmclip_eval.datasets import OpenedDataset
from mmclip_eval.evidence import Evidence
from mmclip_eval.prompts.prompt_set import ClassTexts
from mmclip_eval.results.result import EvalResult, ModelIdentity
from mmclip_eval.results.table import notes_of, results_table
from mmclip_eval.suite import IsThere, Keep, evaluate_opened
from mmclip_launch.run.beginning.preflight import refuse_equal_prompts
from mmclip_launch.run.scoring.drawing import Pass, run_of, subject_of
from mmclip_launch.run.scoring.encoding import EncodeOptions, load_everywhere
from mmclip_launch.run.scoring.evaluation_sets import Sets
from mmclip_launch.run.scoring.identity import default_output, identity_of, said_of
from mmclip_launch.screen import Screen

Fail = Callable[[str, Exception], None]
"""Called with a checkpoint or with one of its sets, and what was wrong; may raise."""


def evaluate_checkpoint(
    checkpoint: str,
    sets: Sets,
    output: Path | None,
    screen: Screen,
    raw: bool = False,
    how: EncodeOptions | None = None,
    fail: Fail | None = None,
    skip_existing: bool = False,
) -> Pass:
    """Load, evaluate, write one JSON a (data set, task) and print the table.

    A set that fails is handed to `fail`; without it, it ends the whole. `skip_existing` leaves out results whose file is in
    the folder: of the same weights, samples, prompts and settings.

    Raises:
        UserError: checkpoint or data set is unsound, or there is no folder to write to.
    """
    how = how or EncodeOptions()
    results_folder = output or default_output(checkpoint)
    identity = replace(identity_of(checkpoint, raw), precision=how.precision)
    opened = sets.opened()  # a wrong path is told before the model is loaded, which takes longer
    model, encoder = load_everywhere(checkpoint, raw, how)
    refuse_equal_prompts(opened, model.tokenizer)
    if opened:
        screen.say(f"evaluating {identity.checkpoint}{said_of(identity)}")
    for name, texts in prompts_of(opened).items():
        screen.say(f"{name}: {texts.words}")
    evidence: list[Evidence] = []
    paths: list[Path] = []
    kept: list[str] = []

    def is_there(name: str) -> bool:
        kept.extend([name] if skip_existing and (results_folder / name).is_file() else [])
        return name in kept

    results = evaluate_sets(
        encoder,
        opened,
        "eval",
        screen,
        identity,
        seed=how.seed,
        keep=evidence.append,
        write=lambda result: paths.append(result.write(results_folder)),
        fail=None if fail is None else lambda name, error: fail(f"{checkpoint}, {name}", error),
        is_there=is_there,
    )
    if results:
        screen.show(results_table(results))
        for note in notes_of(results):
            screen.say(note)
        screen.say(f"written: {', '.join(map(str, paths))}")
    if results:
        screen.say(said_of_features(encoder))
    if kept:
        screen.say(f"left out, for {results_folder} has them: {', '.join(kept)}")
    if how.store is not None:
        how.store.close()
    run_folder = run_of(identity.checkpoint or checkpoint)
    return Pass(subject_of(model, identity, run_folder), results, evidence, results_folder, run_folder)


def evaluate_sets(
    encoder: Encoder,
    opened: Sequence[OpenedDataset],
    title: str,
    screen: Screen,
    identity: ModelIdentity | None = None,
    *,
    seed: int = 0,
    keep: Keep | None = None,
    write: Callable[[EvalResult], object] | None = None,
    fail: Fail | None = None,
    is_there: IsThere | None = None,
) -> list[EvalResult]:
    """Evaluate with a bar a set on the terminal; `write` takes each result as soon as it is known."""
    identity = identity or ModelIdentity(model="in memory", precision="fp32")
    results: list[EvalResult] = []
    with screen.bars("pictures") as advance:
        for one in opened:
            name = one.dataset.config.name
            report = partial(advance, f"{title}: {name}")
            try:
                for result in evaluate_opened(
                    encoder,
                    [one],
                    identity,
                    seed=seed,
                    progress=lambda _, *step, report=report: report(*step),
                    keep=keep,
                    is_there=is_there,
                ):
                    if write is not None:
                        write(result)
                    results.append(result)
            except Exception as error:
                if fail is None or not encoder.ranks.in_touch:
                    raise
                fail(name, error)
    return results


def prompts_of(opened: Sequence[OpenedDataset]) -> dict[str, ClassTexts]:
    """What the model is told of the classes of each set that has a task which tells it."""
    told = [one.dataset for one in opened if any("prompts" in task.needs for task in one.tasks)]
    return {dataset.config.name: dataset.prompts for dataset in told}


def said_of_features(encoder: Encoder) -> str:
    """What was encoded, what was there, and where it is kept."""
    store = encoder.store
    place = f"; kept in {store.folder}, {store.bytes() / 1e6:,.1f} MB in all" if store is not None else ""
    return f"features: {encoder.tally}{place}"
