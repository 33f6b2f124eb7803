"""The pictures of one set through the one encode pass, and the set without those that cannot be encoded."""

from functools import partial

from mmclip_data.features.encode import Progress, refuse_bad
from mmclip_data.features.encoder import Encoder
from mmclip_eval.eval_dataset import EvalDataset
from mmclip_eval.places import place_of
from mmclip_eval.tasks.base import Encoded


def encode_set(encoder: Encoder, dataset: EvalDataset, progress: Progress | None = None) -> Encoded:
    """Embeddings of a set's pictures; samples whose picture is of no use are left out of `dataset` where they may be.

    Raises:
        UserError: a picture cannot be read and none may be left out, or an embedding is not finite.
    """
    rows = dataset.encoded_rows
    refuse = partial(refuse_bad, rows) if dataset.skipped.budget is None else None
    encoding = encoder.images(rows, place_of(dataset), progress, refuse)
    kept = dataset.leave_out_rows(encoding.bad) if encoding.bad else slice(None)
    return Encoded(dataset, encoding.embed[kept], encoder.texts)
