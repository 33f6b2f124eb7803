"""`worst_group`: the accuracy of the group of samples that fares worst, and macro figures over the classes (WILDS)."""

from typing import ClassVar, Literal

import torch

from mmclip.config import config
from mmclip.errors import UserError
from mmclip_eval.eval_dataset import EvalDataset, Part
from mmclip_eval.groups import Groups
from mmclip_eval.metrics.bootstrap import accuracy_interval, mean_per_class_recall_interval
from mmclip_eval.metrics.classification import mean_per_class_recall, top_k_accuracy
from mmclip_eval.metrics.confusion import chance_macro_f1, confusion_matrix, macro_f1, macro_f1_interval
from mmclip_eval.metrics.estimate import Estimate
from mmclip_eval.metrics.worst_group import MIN_GROUP_SIZE, WorstGroup, worst_group
from mmclip_eval.tasks.base import EvalTask, Outcome, Table, TaskContext
from mmclip_eval.tasks.zero_shot_classification import classification_details
from mmclip_eval.zero_shot import rank_and_predict


@config
class WorstGroupTask(EvalTask):
    """Zero-shot accuracy by group; the groups are those that `group` of the set names."""

    type: Literal["worst_group"] = "worst_group"
    public_name: ClassVar[str] = "worst_group"
    needs: ClassVar[tuple[Part, ...]] = ("labelled", "prompts", "groups")

    min_group_size: int = MIN_GROUP_SIZE
    """A smaller group is named and counted, and not compared."""
    left_out: tuple[str, ...] = ()
    """Groups that are not compared whatever their size, such as the regions that FMoW calls Other."""
    name: str = "wg"
    """Ends the names of the figures: `acc_wg` is DataComp's; FMoW's is `acc_worst_region`, by `worst_region`."""

    def __post_init__(self) -> None:
        if self.min_group_size < 1 or not self.name.isidentifier():
            raise UserError(
                f"min_group_size={self.min_group_size}, name={self.name!r}: expected a size from 1 on, and a name of "
                "letters, digits and underscores"
            )

    def check(self, dataset: EvalDataset, related) -> None:
        """Refuse groups of which none can be compared."""
        groups = _groups(dataset)
        unknown = [name for name in self.left_out if name not in groups.names]
        if unknown:
            raise UserError(
                f"{dataset.config.name}, {self.type}: left_out names {unknown[0]!r}, which is no group; known: "
                f"{', '.join(groups.names[:12])}"
            )
        size = torch.bincount(groups.of_sample, minlength=len(groups.names))
        size = [int(count) for name, count in zip(groups.names, size, strict=True) if name not in self.left_out]
        if max(size, default=0) < self.min_group_size:
            raise UserError(
                f"{dataset.config.name}, {self.type}: no group has {self.min_group_size} samples, the largest has "
                f"{max(size, default=0)}; give a smaller min_group_size, and read the interval"
            )

    def run(self, context: TaskContext) -> Outcome:
        """`acc_wg` and `acc_top5_wg` (under `name`), `acc_avg`, `recall-macro_all`, `F1-macro_all`, and the table `groups`."""
        part, groups = context.dataset.labelled, _groups(context.dataset)
        classes = len(part.class_names)
        rank, predicted = rank_and_predict(context.image_embed, part.labels, context.own.class_embed)
        found = {k: self._worst(rank < k, context.dataset) for k in (1, 5) if k <= classes}
        metrics = {
            f"acc_{'' if k == 1 else 'top5_'}{self.name}": Estimate(worst.value, worst.interval, chance=k / classes)
            for k, worst in found.items()
        }
        correct = rank < 1
        metrics["acc_avg"] = Estimate(top_k_accuracy(rank, 1), accuracy_interval(correct), chance=1 / classes)
        recall = mean_per_class_recall(correct, part.labels)
        interval = mean_per_class_recall_interval(correct, part.labels)
        metrics["recall-macro_all"] = Estimate(recall, interval, chance=1 / classes)
        metrics["F1-macro_all"] = Estimate(
            macro_f1(confusion_matrix(predicted, part.labels, classes)),
            macro_f1_interval(predicted, part.labels, classes),
            chance_macro_f1(part.labels, classes),
        )
        worst = found[1]
        details = {
            **classification_details(part, context.dataset.prompts),
            "worst_group": {"group": groups.names[worst.worst], "samples": worst.size[worst.worst]},
            "groups_not_compared": {groups.names[i]: worst.size[i] for i in worst.not_compared},
        }
        return Outcome(
            metrics, details, {"groups": _table(groups.names, worst)}, notes=self._notes(groups.names, worst)
        )

    def _worst(self, correct: torch.Tensor, dataset: EvalDataset) -> WorstGroup:
        groups = _groups(dataset)
        left_out = [groups.names.index(name) for name in self.left_out]
        return worst_group(correct, groups.of_sample, len(groups.names), self.min_group_size, left_out)

    def _notes(self, names: tuple[str, ...], worst: WorstGroup) -> tuple[str, ...]:
        small = [i for i in worst.not_compared if names[i] not in self.left_out]
        if not small:
            return ()
        told = ", ".join(f"{names[i]} ({worst.size[i]})" for i in small[:5])
        return (f"{len(small)} groups under {self.min_group_size} samples are not compared: {told}",)


def _groups(dataset: EvalDataset) -> Groups:
    assert dataset.groups is not None, "a task that needs groups runs on no set without them"
    return dataset.groups


def _table(names: tuple[str, ...], worst: WorstGroup) -> Table:
    """A row a group; accuracy is null where it has no sample."""
    rows = [
        (name, size, accuracy, i in worst.compared)
        for i, (name, size, accuracy) in enumerate(zip(names, worst.size, worst.accuracy, strict=True))
    ]
    return Table(("group", "samples", "acc1", "compared"), rows)
