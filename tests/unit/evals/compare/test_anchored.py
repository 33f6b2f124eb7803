import math

import pytest

from mmclip_eval.compare.anchored import Anchored


def anchored(value: float, ceiling: float = 0.9, floor: float = 0.1) -> Anchored:
    return Anchored(value, value, value, ceiling, floor, "permuted pairs")


def test_a_figure_has_a_place_between_its_floor_and_its_ceiling():
    assert anchored(0.3).position == pytest.approx(0.25)
    assert anchored(0.05).position == 0.0
    assert anchored(1.0).position == 1.0


def test_a_distance_has_its_ceiling_below_its_floor():
    assert anchored(0.3, ceiling=0.1, floor=0.9).position == pytest.approx(0.75)
    assert anchored(0.0, ceiling=0.1, floor=0.9).position == 1.0


@pytest.mark.parametrize("figure", [anchored(0.5, 0.5, 0.5), anchored(math.nan), anchored(0.5, floor=math.nan)])
def test_there_is_no_place_where_an_anchor_or_the_figure_is_missing(figure: Anchored):
    assert math.isnan(figure.position)
