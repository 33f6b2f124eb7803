"""`classifier`: how well the class head does that the weights carry, such as a probe or a fine-tuning on classes leaves."""

from typing import ClassVar, Literal

from mmclip.config import config
from mmclip.errors import UserError
from mmclip_eval.eval_dataset import Part
from mmclip_eval.metrics.confusion import rank_and_prediction
from mmclip_eval.tasks.base import EvalTask, Outcome, TaskContext
from mmclip_eval.tasks.zero_shot_classification import confusion_table, per_class_table
from mmclip_eval.zero_shot import accuracy_figures


@config
class ClassifierTask(EvalTask):
    """Each picture goes to the class that the head scores highest; no prompt is read."""

    type: Literal["classifier"] = "classifier"
    public_name: ClassVar[str] = "classifier"
    needs: ClassVar[tuple[Part, ...]] = ("labelled",)

    def run(self, context: TaskContext) -> Outcome:
        """`head_acc1`, `head_acc5`, `head_mean_per_class_recall`, and the tables `per_class` and `confusion`.

        Raises:
            UserError: the weights carry no head, or one over other classes.
        """
        part, head, name = context.dataset.labelled, context.class_head, context.dataset.config.name
        if head is None:
            raise UserError(
                f"{name}: task classifier needs weights with a class head, such as the recipes linear_probe and lp_ft leave: "
                "take such weights, or measure zero_shot_classification"
            )
        if head.names != part.class_names:
            raise UserError(
                f"{name}: the head is over {len(head.names)} classes ({', '.join(head.names[:3])}, ...), the set "
                f"has {len(part.class_names)} ({', '.join(part.class_names[:3])}, ...): expected the same, in the same order"
            )
        scores = head(context.image_embed.to(head.weight)).detach().double().cpu()
        rank, predicted = rank_and_prediction(scores, part.labels)
        figures = accuracy_figures(rank, part.labels, len(part.class_names))
        return Outcome(
            metrics={f"head_{metric}": estimate for metric, estimate in figures},
            details={"num_classes": len(part.class_names)},
            tables={
                "per_class": per_class_table(part, predicted),
                "confusion": confusion_table(part.labels, predicted, len(part.class_names)),
            },
        )
