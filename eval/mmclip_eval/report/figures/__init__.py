"""Figures of the report: pure functions from arrays to one inline `<svg>` each.

matplotlib draws them and is imported by the first. The page gives the colours: --ink, --muted, --grid and --surface, and
those of `STYLESHEET`.
"""

from mmclip_eval.report.figures.distribution import histogram
from mmclip_eval.report.figures.dots import Dot, Row, dots
from mmclip_eval.report.figures.growth import Stage, growth
from mmclip_eval.report.figures.heatmap import heatmap
from mmclip_eval.report.figures.intervals import Bar, bars
from mmclip_eval.report.figures.lines import curve, twin_curve
from mmclip_eval.report.figures.maps import gap_map, scatter
from mmclip_eval.report.figures.matrix import confusion
from mmclip_eval.report.figures.reliability import Bin, reliability
from mmclip_eval.report.figures.series import Line, Mark, Reference
from mmclip_eval.report.figures.style import STYLESHEET

__all__ = [
    "STYLESHEET",
    "Bar",
    "Bin",
    "Dot",
    "Line",
    "Mark",
    "Reference",
    "Row",
    "Stage",
    "bars",
    "confusion",
    "curve",
    "dots",
    "gap_map",
    "growth",
    "heatmap",
    "histogram",
    "reliability",
    "scatter",
    "twin_curve",
]
