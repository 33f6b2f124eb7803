"""The house style: sizes in px at a figure's natural width, and colours that the page decides.

matplotlib knows no CSS variable, so each colour is drawn as a sentinel that no figure uses otherwise, and `svg.py` puts
the variable in its place.
"""

from typing import Any

Px = float | int
"""A length or place; whole numbers are as good."""
WIDTH = 360
"""Natural width: a card shows it at 330 to 420 px, so text of `TEXT` px stays above 10 px."""
TEXT = 11.0
TITLE = 13.0
LINE = 1.7
GAP = 6.0
"""Between a label and what it names."""

INK, MUTED, GRID, SURFACE, ALARM = "#0f0e01", "#0f0e02", "#0f0e03", "#0f0e04", "#0f0e05"
SERIES = tuple(f"#0f0d{number:02x}" for number in range(1, 9))
IMAGE, TEXTS = SERIES[0], SERIES[1]
"""The two modalities keep their colours in every figure."""

# Told apart under simulated deuteranopia and protanopia (Machado 2009), each with a contrast of 3 or more on its ground;
# the first four of 4.5, as they also colour text.
LIGHT = ("#0a6ebd", "#c2500c", "#0a7d5c", "#a8478a", "#7a1f1f", "#4a3fc4", "#0b3d4f", "#8a8f98")
DARK = ("#5aa9e6", "#f28a4b", "#3fc79a", "#e08cc2", "#e9dc5b", "#8f97ff", "#c4efa4", "#7d838c")
LIGHT_ALARM, DARK_ALARM = "#c4162a", "#ff6b72"

CSS_COLOUR = {
    INK: "var(--ink,currentColor)",
    MUTED: "var(--muted,#757a82)",
    GRID: "var(--grid,rgba(128,128,128,.28))",
    SURFACE: "var(--surface,Canvas)",
    ALARM: f"var(--alarm,{LIGHT_ALARM})",
    **{colour: f"var(--series-{number},{LIGHT[number - 1]})" for number, colour in enumerate(SERIES, start=1)},
}


def _palette(colours: tuple[str, ...], alarm: str) -> str:
    series = "".join(f"--series-{number}:{colour};" for number, colour in enumerate(colours, start=1))
    return f"{series}--alarm:{alarm};"


STYLESHEET = (
    f":root{{{_palette(LIGHT, LIGHT_ALARM)}}}"
    f"@media (prefers-color-scheme:dark){{:root{{{_palette(DARK, DARK_ALARM)}}}}}"
    f":root[data-theme=light]{{{_palette(LIGHT, LIGHT_ALARM)}}}:root[data-theme=dark]{{{_palette(DARK, DARK_ALARM)}}}"
)
"""The series' colours of both modes, for the page; it adds --ink, --muted, --grid and --surface. A figure has fallbacks."""

SETTINGS: dict[str, Any] = {
    "svg.fonttype": "none",  # real text, in the page's font
    "svg.hashsalt": "mmclip",  # equal input, equal ids
    "text.parse_math": False,  # a class name may hold dollars
    "path.simplify": False,  # it would drop the zero-length strokes that are our dots
    "font.family": ["DejaVu Sans"],  # ships with matplotlib, so measures are the same on every machine
    "font.size": TEXT,
    "figure.dpi": 72,  # one point is one px
    "lines.solid_capstyle": "round",
    "lines.solid_joinstyle": "round",
}
"""On top of matplotlib's own defaults, whatever the user's matplotlibrc says."""
