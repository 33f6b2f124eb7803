"""`linear_probe`: a logistic regression on the embeddings of a training split (CLIP, appendix A.3)."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from mmclip.config import config
from mmclip.errors import UserError
from mmclip_eval.eval_dataset import EvalDataset
from mmclip_eval.probes.drawing import draw_shots
from mmclip_eval.probes.logistic import Examples, Tried, choose_strength, fit_probe
from mmclip_eval.tasks.base import Outcome, TaskContext
from mmclip_eval.tasks.training_set import ChoosingTask, classes_of, examples_of, score, training_details


@config
class LinearProbe(ChoosingTask):
    """How well a linear classifier does that is trained on the pictures' embeddings."""

    type: Literal["linear_probe"] = "linear_probe"
    public_name: ClassVar[str] = "linear_probe"

    fewshot_k: int = -1
    """Examples of each class that are learnt from; -1: all there are."""
    strength: float | None = None
    """Inverse of the L2 penalty, scikit-learn's `C`; None: chosen by a sweep from 1e-6 to 1e6."""
    threads: int = 1
    """Of the solver's linear algebra; more are quicker on a large set, and move the last digits."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.fewshot_k == 0 or self.fewshot_k < -1:
            raise UserError(f"fewshot_k={self.fewshot_k}: expected a number of examples from 1 on, or -1 for all")
        if self.fewshot_k == 1 and self.validation is None and self.strength is None:
            raise UserError("fewshot_k=1 leaves nothing to choose the strength on: give validation, or strength")
        if self.threads < 1 or (self.strength is not None and self.strength <= 0):
            raise UserError(f"threads={self.threads}, strength={self.strength}: expected numbers above 0")

    def check(self, dataset: EvalDataset, related: Mapping[str, EvalDataset]) -> None:
        """Refuse a training set that has fewer examples of a class than are asked for."""
        super().check(dataset, related)
        train = related["train"]
        if self.fewshot_k > 0:
            refuse_too_few(train, self.fewshot_k, "fewshot_k")
        elif self.strength is None and self.validation is None and int(train.labelled.labels.bincount().max()) < 2:
            raise UserError(
                f"{train.config.path}, split {train.config.split}: no class has two examples, so none can be held out to "
                "choose the strength on: give validation, or strength"
            )

    def run(self, context: TaskContext) -> Outcome:
        """`lp_acc1`, `lp_acc5`, `lp_mean_per_class_recall`, and the tables `per_class` and `confusion`.

        The strength is chosen first; then all that may be learnt from is: with `fewshot_k` the shots alone, else the
        validation set too.
        """
        train = examples_of(context.related("train"))
        if self.fewshot_k > 0:
            train = train.at(draw_shots(train.labels, self.fewshot_k, context.seed))
        classes, tried = classes_of(context, train), list[Tried]()
        strength, chosen_on, final = self.strength, 0, train
        if strength is None:
            learnt, held_out = self.learn_and_choose(context, train)
            strength, tried = choose_strength(learnt, held_out, classes, self.threads)
            chosen_on = len(held_out.labels)
            final = self._all_examples(train, held_out)
        probe = fit_probe(final, classes, strength, self.threads)
        scored = score(probe.scores(context.image_embed), context, final)
        details = training_details(context, final) | {
            "regularisation": {
                "strength": strength,
                "chosen_on_samples": chosen_on,
                "tried": [plain(one) for one in tried],
            },
            "converged": probe.converged,
        }
        settings = {"fewshot_k": self.fewshot_k, "seed": context.seed, "normalized": True}
        return Outcome(
            dict(scored.figures("lp_")), details, scored.tables(context), settings=settings, notes=scored.notes
        )

    def _all_examples(self, train: Examples, held_out: Examples) -> Examples:
        # What was held out of the training set is in it already.
        return train.and_also(held_out) if self.validation is not None and self.fewshot_k < 0 else train


def plain(tried: Tried) -> dict[str, Any]:
    """One line of the sweep for the result file; a loss beyond all numbers is null."""
    return {"strength": tried.strength, "acc1": tried.accuracy, "loss": tried.loss if tried.loss < 1e300 else None}


def refuse_too_few(train: EvalDataset, shots: int, option: str) -> None:
    """Raise where a class of a training set has fewer examples than `shots`.

    Raises:
        UserError: naming the class.
    """
    labels = train.labelled.labels
    counts = labels.bincount()
    few = ((counts > 0) & (counts < shots)).nonzero()[:, 0]
    if len(few):
        label = int(few[0])
        raise UserError(
            f"{train.config.path}, split {train.config.split}: class {train.labelled.class_names[label]!r} has "
            f"{int(counts[label])} examples, and {option}={shots} asks for more ({len(few)} such classes)"
        )
