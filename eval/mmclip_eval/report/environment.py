"""What every page is made with: the templates and the style sheet."""

from functools import cache
from importlib.resources import files
from typing import Any

from mmclip_eval.report.figures import STYLESHEET


def environment() -> Any:
    """The templates of the pages; what people write into names stays text."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("mmclip_eval.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@cache
def stylesheet() -> str:
    """The page's own rules after the figures' colours."""
    text = (files("mmclip_eval.report") / "templates" / "report.css").read_text(encoding="utf-8")
    return f"{STYLESHEET}\n{text}"
