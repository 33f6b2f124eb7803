"""Pair matching with its controls: rows of one side, such as pictures, and rows of another, such as their captions."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mmclip_eval.contrasim import matching as cases
from mmclip_eval.contrasim.closed_form import CKA, SET_CKA, SET_MEASURES, Measure, figure_of
from mmclip_eval.contrasim.encoder import Encoders
from mmclip_eval.contrasim.fit import fit_pairs
from mmclip_eval.contrasim.matching import MatchRow, PairMatching, Share, share_of
from mmclip_eval.contrasim.predict import Progress
from mmclip_eval.contrasim.sets import Questions, nearest_questions, random_questions
from mmclip_eval.contrasim.settings import ContraSimConfig
from mmclip_eval.contrasim.splits import split_rows

Side = Float[Tensor, "row _"]
Scores = Callable[[Int[Tensor, " member"], Int[Tensor, "candidate member"]], Float[Tensor, " candidate"]]
"""How alike the rows of a set are to those of each candidate."""


def match_pairs(
    left: Float[Tensor, "row left_width"],
    right: Float[Tensor, "row right_width"],
    names: tuple[str, str] = ("left", "right"),
    settings: ContraSimConfig | None = None,
    *,
    set_size: int = 64,
    wrong_sets: int = 10,
    measures: Mapping[str, Measure] = SET_MEASURES,
    progress: Progress | None = None,
) -> PairMatching:
    """Row i of both sides is a pair, and no row of the right side comes twice.

    Debiased CKA is measured in any case, `measures` are further ones.

    Raises:
        UserError: there are too few pairs.
    """
    settings = settings or ContraSimConfig()
    rows = split_rows(len(left), settings)
    train, test = (left[rows.train], right[rows.train]), (left[rows.test], right[rows.test])
    ask = partial(_asked, set_size=set_size, wrong_sets=wrong_sets, seed=settings.seed)
    size = [side.pow(2).mean().sqrt() for side in train]
    train = train[0] / size[0], train[1] / size[1]
    scaled = test[0] / size[0], test[1] / size[1]
    generator = torch.Generator().manual_seed(settings.seed)
    wrong_train, wrong_test = ((one[0], one[1][_moved(len(one[1]), generator)]) for one in (train, scaled))
    fitted = fit_pairs(*train, settings, progress and partial(progress, cases.TRUE))
    control = fit_pairs(*wrong_train, settings, progress and partial(progress, "wrong pairs"))
    found = [
        ask("ContraSim", cases.TRUE, scaled, _learned(fitted, *scaled)),
        ask("ContraSim", cases.WRONG_OWN, wrong_test, _learned(control, *wrong_test)),
        ask("ContraSim", cases.WRONG_TRUE, scaled, _learned(control, *scaled)),
        ask("ContraSim", cases.WRONG_SEEN, wrong_train, _learned(control, *wrong_train)),
        ask(CKA, cases.CLOSED, test, _of_sets(*test, SET_CKA)),
    ]
    for name, measure in measures.items():
        if not measure.same_width or test[0].shape[1] == test[1].shape[1]:
            found.append(ask(name, cases.CLOSED, test, _of_sets(*test, measure)))
    return PairMatching(*names, len(rows.train), len(rows.test), set_size, wrong_sets, tuple(found), asdict(settings))


def _asked(
    measure: str, case: str, sides: tuple[Side, Side], scores: Scores, set_size: int, wrong_sets: int, seed: int
) -> MatchRow:
    drawn = random_questions(len(sides[1]), set_size, wrong_sets, seed)
    hard = nearest_questions(sides[1], set_size, wrong_sets, seed)
    return MatchRow(measure, case, _answered(drawn, scores), _answered(hard, scores))


def _answered(questions: Questions, scores: Scores) -> Share:
    """A tie with a wrong set is no hit."""
    hits = 0
    for asked, candidates in zip(questions.asked, questions.candidates, strict=True):
        found = scores(asked, candidates)
        hits += int(found[0] > found[1:].max())
    return share_of(hits, len(questions.asked), questions.disjoint)


@torch.inference_mode()
def _learned(encoders: Encoders, left: Side, right: Side) -> Scores:
    return _of_rows(encoders(left) @ encoders(right).T)


def _of_rows(similarity: Float[Tensor, "row row"]) -> Scores:
    """Of a measure that is a mean over rows."""
    kept = similarity.double().cpu()
    return lambda asked, candidates: kept[asked[None, :], candidates].mean(dim=1)


def _of_sets(left: Side, right: Side, measure: Measure) -> Scores:
    """Of any measure of two sets of rows."""

    def scores(asked: Int[Tensor, " member"], candidates: Int[Tensor, "candidate member"]) -> Tensor:
        return torch.tensor([figure_of(measure, x[asked], y[candidate]) for candidate in candidates])

    x, y = left.double().cpu().numpy(), right.double().cpu().numpy()
    return scores


def _moved(rows: int, generator: torch.Generator) -> Int[Tensor, " row"]:
    """A permutation that leaves no row at its place: one cycle through all of them, in a random order."""
    order = torch.randperm(rows, generator=generator)
    moved = torch.empty_like(order)
    moved[order] = order.roll(1)
    return moved
