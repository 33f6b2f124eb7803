"""What becomes of one item of a job: a sample that is written, or a name with the reason why not."""

import json
from typing import NamedTuple


class Kept(NamedTuple):
    """A sample to write; without a key it is numbered among the kept ones."""

    members: dict[str, bytes]
    key: str | None = None


class Dropped(NamedTuple):
    """An item that is left out; `reason` is one of few, what is special about this item stands in `detail`."""

    source: str
    reason: str
    detail: str = ""
    of: str = ""
    """Of a duplicate: the sample that is kept in its place."""

    def line(self) -> bytes:
        """One line of `dropped.jsonl`."""
        facts = {name: value for name, value in self._asdict().items() if value}
        return json.dumps(facts, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"


Outcome = Kept | Dropped
