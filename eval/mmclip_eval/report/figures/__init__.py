"""Figures of the report: pure functions from arrays to one inline `<svg>` each.

matplotlib draws them and is imported by the first. The page gives the colours: --ink, --muted, --grid and --surface, and
those of `STYLESHEET`.
"""

from mmclip_eval.report.figures.distribution import histogram
from mmclip_eval.report.figures.intervals import Bar, bars
from mmclip_eval.report.figures.lines import curve, twin_curve
from mmclip_eval.report.figures.maps import gap_map, scatter
from mmclip_eval.report.figures.matrix import confusion
from mmclip_eval.report.figures.series import Line, Mark, Reference
from mmclip_eval.report.figures.style import STYLESHEET

__all__ = [
    "STYLESHEET",
    "Bar",
    "Line",
    "Mark",
    "Reference",
    "bars",
    "confusion",
    "curve",
    "gap_map",
    "histogram",
    "scatter",
    "twin_curve",
]
