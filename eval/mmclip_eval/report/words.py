"""Numbers as a page writes them."""

import math


def percent(value: float) -> str:
    """A fraction in percent with as many digits as tell something: 24.1 %, 0.08 %, 100 %."""
    if not math.isfinite(value):
        return str(value)
    scaled = 100 * value
    digits = 1 if scaled >= 9.95 else 2
    if scaled >= 99.95:
        digits = 0 if scaled == 100 else 2
    return f"{scaled:.{digits}f} %"


def count(value: int | float) -> str:
    """A large number in three digits: 950, 12.8 k, 1.41 M, 12.8 B."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e4, "k")):
        if value >= size:
            scaled = value / (1e3 if unit == "k" else size)
            return f"{scaled:.3g} {unit}" if scaled < 1000 else f"{scaled:,.0f} {unit}"
    return f"{value:,.0f}"


def duration(seconds: int | float) -> str:
    """Seconds as a person says them: 48 s, 3 min 52 s, 2 h 05 min, 3 d 4 h."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def figure(value: float) -> str:
    """Any other number in four significant digits."""
    return f"{value:.4g}" if math.isfinite(value) else str(value)


def shorten(text: str, most: int = 160) -> str:
    """A text of at most `most` characters; what is cut off ends in an ellipsis."""
    return text if len(text) <= most else f"{text[: most - 1].rstrip()}…"
