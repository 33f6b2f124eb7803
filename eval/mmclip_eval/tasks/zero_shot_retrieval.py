"""`zero_shot_retrieval`: captions look for their picture, pictures for any of their captions."""

from typing import ClassVar, Literal

from mmclip.config import config
from mmclip.errors import UserError
from mmclip_eval.eval_dataset import EvalDataset, Part
from mmclip_eval.prompts.prompt_set import sha256_of
from mmclip_eval.retrieval import RECALL_AT, zero_shot_retrieval
from mmclip_eval.tasks.base import EvalTask, Outcome, TaskContext


@config
class ZeroShotRetrieval(EvalTask):
    """Recall both ways, with any number of captions a picture."""

    type: Literal["zero_shot_retrieval"] = "zero_shot_retrieval"
    public_name: ClassVar[str] = "zeroshot_retrieval"
    needs: ClassVar[tuple[Part, ...]] = ("captioned",)
    dataset_type: ClassVar[str | None] = "retrieval"

    recall_at: tuple[int, ...] = RECALL_AT
    """How many of the best entries are looked at; a number beyond the gallery finds everything, as does chance."""

    def __post_init__(self) -> None:
        if not self.recall_at or min(self.recall_at) < 1 or len(set(self.recall_at)) < len(self.recall_at):
            raise UserError(
                f"recall_at={list(self.recall_at)}: expected different numbers from 1 on, such as [1, 5, 10]"
            )

    def fits(self, dataset: EvalDataset) -> bool:
        """Whether samples have captions."""
        return dataset.has_captions()

    def run(self, context: TaskContext) -> Outcome:
        """`image_retrieval_recall@k`, `text_retrieval_recall@k` and the median ranks both ways."""
        part = context.dataset.captioned
        figures = zero_shot_retrieval(
            context.image_embed, context.own.caption_embed, part.image_of_caption, self.recall_at
        )
        details = {"num_captions": len(part.captions), "captions": {"sha256": sha256_of(part.captions)}}
        return Outcome(dict(figures), details)
