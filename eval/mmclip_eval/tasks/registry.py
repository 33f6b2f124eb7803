"""The registry of tasks: a new one is one file and one name in the union below."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, get_args

from pydantic import Field, WrapValidator

from mmclip.errors import UserError
from mmclip.near import did_you_mean
from mmclip_eval.eval_dataset import EvalDataset
from mmclip_eval.tasks.base import EvalTask
from mmclip_eval.tasks.calibration import Calibration
from mmclip_eval.tasks.classifier import ClassifierTask
from mmclip_eval.tasks.few_shot import FewShot
from mmclip_eval.tasks.image_caption_selection import ImageCaptionSelection
from mmclip_eval.tasks.knn import Knn
from mmclip_eval.tasks.linear_probe import LinearProbe
from mmclip_eval.tasks.multilabel_classification import MultilabelClassification
from mmclip_eval.tasks.ood_detection import OodDetection
from mmclip_eval.tasks.robustness import Robustness
from mmclip_eval.tasks.tip_adapter import TipAdapterTask
from mmclip_eval.tasks.worst_group import WorstGroupTask
from mmclip_eval.tasks.zero_shot_classification import ZeroShotClassification
from mmclip_eval.tasks.zero_shot_retrieval import ZeroShotRetrieval

AnyTask = (
    ZeroShotClassification
    | ZeroShotRetrieval
    | MultilabelClassification
    | ImageCaptionSelection
    | WorstGroupTask
    | LinearProbe
    | FewShot
    | TipAdapterTask
    | Knn
    | Calibration
    | Robustness
    | OodDetection
    | ClassifierTask
)
"""The union is the registry; where a set declares nothing, the first that fits is taken."""

TASKS: dict[str, type[EvalTask]] = {task().type: task for task in get_args(AnyTask)}


def read_task(choice: Any, read_table: Callable[[Any], Any]) -> Any:
    """The task of a bare name, with the defaults of its options, or of a table; a task of one's own stays as it is.

    Raises:
        UserError: there is no such task.
    """
    if isinstance(choice, EvalTask):
        return choice
    if not isinstance(choice, str):
        return read_table(_with_tuples(choice))
    if choice not in TASKS:
        guess = did_you_mean(choice, TASKS, before="; ")
        raise UserError(f"tasks: expected one of {', '.join(TASKS)}, got {choice!r}{guess}")
    return TASKS[choice]()


def _with_tuples(value: Any) -> Any:
    # Behind a validator in Python pydantic no longer knows that a list came from a file, and strictly refuses it.
    if isinstance(value, Mapping):
        return {key: _with_tuples(entry) for key, entry in value.items()}
    return tuple(map(_with_tuples, value)) if isinstance(value, list) else value


TaskConfig = Annotated[AnyTask, Field(discriminator="type"), WrapValidator(read_task)]
"""How a configuration writes a task: `"zero_shot_retrieval"`, or a table with `type` and options."""


def own_task(dataset: EvalDataset) -> EvalTask:
    """The task that a set itself asks for: by its declared type, else by what its samples hold.

    Raises:
        UserError: neither tells.
    """
    declared, known = dataset.declared.dataset_type, [task() for task in TASKS.values()]
    if declared is not None:
        found = [task for task in known if task.dataset_type == declared]
        types = ", ".join(task.dataset_type for task in known if task.dataset_type)
        if not found:
            raise UserError(f"{dataset.config.path}: data set type {declared!r:.40} is not supported; known: {types}")
        return found[0]
    return next((task for task in known if task.fits(dataset)), None) or _refuse(dataset)


def _refuse(dataset: EvalDataset) -> EvalTask:
    name, label, captions = dataset.config.name, dataset.config.label, dataset.caption_places
    found = ", ".join(f".{extension}" for extension in sorted(dataset.samples.extension_counts()))
    raise UserError(f"{name}: no label ({label}) and no captions ({', '.join(captions)}); members there: {found}")
