"""Under pytest each call of ours is checked: without that, an annotated shape would be a comment."""

import pytest
import torch
from beartype.roar import BeartypeCallHintViolation
from jaxtyping import TypeCheckError

from mmclip.batch import DataPosition, TowerOutput
from mmclip.ops.infonce import infonce
from mmclip.towers.architecture import model_cfg_of


def test_axes_of_one_name_must_have_one_size():
    scale = torch.ones(1)
    assert infonce(torch.ones(2, 3), torch.ones(2, 3), scale)
    with pytest.raises(TypeCheckError, match="text_embed"):
        infonce(torch.ones(2, 3), torch.ones(2, 4), scale)
    with pytest.raises(TypeCheckError, match="text_embed"):
        TowerOutput(image_embed=torch.ones(2, 3), text_embed=torch.ones(2, 4), logit_scale=scale, logit_bias=None)


def test_types_are_checked_where_no_shape_is_named():
    with pytest.raises(BeartypeCallHintViolation):
        DataPosition("0")  # pyright: ignore[reportArgumentType]
    with pytest.raises(BeartypeCallHintViolation):
        model_cfg_of(7)  # pyright: ignore[reportArgumentType]
