"""`LayerPrediction`: what layer prediction found, with its controls, and whether it may be read."""

from dataclasses import asdict, dataclass
from typing import Any

from mmclip_eval.contrasim.accuracy import Accuracy
from mmclip_eval.contrasim.closed_form import CKA
from mmclip_eval.contrasim.verdict import Refusal, refusal_of_layers

SEEN, HELD_OUT = "all models seen", "held-out models"
WRONG_OWN, WRONG_TRUE = "wrong correspondence, on its own labels", "wrong correspondence, on the true ones"
ROTATED, UNPAIRED = "rotated at the test", "examples not paired at the test"


@dataclass(frozen=True)
class Row:
    """A measure in one case."""

    measure: str
    case: str
    accuracy: Accuracy


@dataclass(frozen=True)
class LayerPrediction:
    """For each layer of a model, whether the same layer of another is found; every test is of examples not trained on."""

    models: tuple[str, ...]
    layers: tuple[str, ...]
    train_rows: int
    test_rows: int
    held_out: tuple[tuple[str, ...], ...]
    """The models that each fold tests and does not train on."""
    learned: tuple[Row, ...]
    """ContraSim, a row a case."""
    closed_form: tuple[Row, ...]
    """The other measures, on all models, on the pairs of held-out ones, and without paired examples."""
    selectivity: float
    """Accuracy on seen models minus that of the control on its own wrong labels, in shares (Hewitt and Liang 2019)."""
    selectivity_interval: tuple[float, float]
    settings: dict[str, Any]

    @property
    def chance(self) -> float:
        """What guessing would score."""
        return 1 / len(self.layers)

    @property
    def refusal(self) -> Refusal | None:
        """Why no verdict is given; None where the figures may be read."""
        held_out, cka = self.of(HELD_OUT), self.of(HELD_OUT, CKA)
        own = self.of(WRONG_OWN).value
        return refusal_of_layers(self.selectivity, own, held_out.value, held_out.interval[0], self.chance, cka.value)

    @property
    def verdict(self) -> str:
        """What may be said, or why nothing may be."""
        if self.refusal is not None:
            return f"no verdict: {self.refusal}"
        held_out, cka = self.of(HELD_OUT), self.of(HELD_OUT, CKA)
        return (
            f"layers of models that training did not see are found in {held_out.value:.1%} of the questions (guessing: "
            f"{self.chance:.1%}, debiased CKA: {cka.value:.1%}), and true layers are found "
            f"{100 * self.selectivity:.0f} points more often than invented ones"
        )

    def of(self, case: str, measure: str | None = None) -> Accuracy:
        """The accuracy in a case, by default ContraSim's.

        Raises:
            KeyError: it was not measured.
        """
        rows = self.learned if measure is None else [row for row in self.closed_form if row.measure == measure]
        for row in rows:
            if row.case == case:
                return row.accuracy
        raise KeyError((case, measure))

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        found = asdict(self)
        return {
            "task": "layer_prediction",
            "chance": self.chance,
            "verdict": self.verdict,
            "refused": self.refusal,
        } | found
