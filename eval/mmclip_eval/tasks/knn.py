"""`knn`: each picture takes the class that its nearest training pictures vote for (Wu et al., 2018)."""

from typing import ClassVar, Literal

from mmclip.config import config
from mmclip.errors import UserError
from mmclip_eval.metrics.neighbours import NEIGHBOURS, TEMPERATURE, neighbour_votes
from mmclip_eval.tasks.base import Outcome, TaskContext
from mmclip_eval.tasks.training_set import TrainedTask, classes_of, examples_of, score, training_details


@config
class Knn(TrainedTask):
    """Weighted votes of the nearest neighbours among the embeddings of a training split."""

    type: Literal["knn"] = "knn"
    public_name: ClassVar[str] = "knn"

    neighbours: int = NEIGHBOURS
    """How many vote."""
    temperature: float = TEMPERATURE
    """A vote weighs exp(cosine / temperature)."""

    def __post_init__(self) -> None:
        if self.neighbours < 1 or self.temperature <= 0:
            raise UserError(
                f"neighbours={self.neighbours}, temperature={self.temperature}: expected at least one neighbour and a "
                "temperature above 0"
            )

    def run(self, context: TaskContext) -> Outcome:
        """`knn_acc1`, `knn_acc5`, `knn_mean_per_class_recall`, and the tables `per_class` and `confusion`."""
        train = examples_of(context.related("train"))
        votes = neighbour_votes(
            context.image_embed,
            train.embed,
            train.labels,
            classes_of(context, train),
            self.neighbours,
            self.temperature,
        )
        scored = score(votes, context, train)
        figures, details = dict(scored.figures("knn_")), training_details(context, train)
        return Outcome(figures, details, scored.tables(context), notes=scored.notes)
