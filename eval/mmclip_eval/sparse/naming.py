"""Texts of a set that units and clusters may be named by: captions where it has some, else the names of its classes."""

from mmclip_eval.eval_dataset import EvalDataset
from mmclip_eval.sparse.units import Texts
from mmclip_eval.tasks.base import Encoded

MOST_CAPTIONS = 20_000
"""More name nothing better, and each has to go through the tower."""


def texts_of_set(encoded: Encoded) -> Texts | None:
    """The set's texts with their embeddings; None where nothing is known of its pictures but the pictures.

    Raises:
        UserError: captions or labels are declared, and a sample lacks them.
    """
    texts = list(dict.fromkeys(_texts(encoded.dataset)))[:MOST_CAPTIONS]
    return Texts(encoded.encode_texts(texts), tuple(texts)) if len(texts) > 1 else None


def _texts(dataset: EvalDataset) -> tuple[str, ...]:
    if dataset.config.captions:  # asked for
        return dataset.captioned.captions
    if dataset.has_labels() and dataset.labelled.is_named:
        return dataset.labelled.class_names
    return dataset.captioned.captions if dataset.caption_places and dataset.has_captions() else ()
