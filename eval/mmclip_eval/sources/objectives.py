"""Sets like FairFace have several classifications in one folder: their names and templates read `objective:text`."""

import re
from collections.abc import Mapping

from mmclip.errors import UserError
from mmclip_eval.text_lines import Lines

MARKED = re.compile(r"([A-Za-z]\w*):(?=\S)(.*)")


def lines_of_objective(texts: Mapping[str, Lines], objective: str | None, where: str) -> dict[str, Lines]:
    """Of each text the lines of one objective, without its name; all lines where no text has objectives.

    A text has them when each of its lines does.

    Raises:
        UserError: there are several objectives and none is chosen, or the one that is chosen is not there.
    """
    marked = {name: [MARKED.fullmatch(line) for line in text.lines] for name, text in texts.items()}
    names = {name: [match[1] for match in found if match] for name, found in marked.items()}
    has_objectives = bool(texts) and all(
        text.lines and len(names[name]) == len(text.lines) for name, text in texts.items()
    )
    known = sorted({objective for found in names.values() for objective in found}) if has_objectives else []
    if objective is None:
        if not has_objectives:
            return dict(texts)
        sources = " and ".join(text.source for text in texts.values())
        raise UserError(
            f"{where}: each line of {sources} begins with an objective: set objective to one of {', '.join(known)}, and "
            "label to the place of its index, such as npy:0"
        )
    missing = [text.source for name, text in texts.items() if not has_objectives or objective not in names[name]]
    if missing or not texts:
        told = f"there are {', '.join(known)}" if known else "its lines name none (objective:text)"
        raise UserError(f"{where}: objective={objective!r} is not in {', '.join(missing) or 'its texts'}: {told}")
    return {
        name: Lines(
            tuple(match[2].strip() for match in marked[name] if match and match[1] == objective),
            f"{text.source}, {objective}",
        )
        for name, text in texts.items()
    }
