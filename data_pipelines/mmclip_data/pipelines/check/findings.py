"""One kind of flaw in one shard, and whether it costs a run anything."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

Effect = Literal["refused", "lost", "note"]
"""A run refuses to start; it loses these samples, each counted and named; or it does not mind."""
EFFECTS: tuple[Effect, ...] = ("refused", "lost", "note")


@dataclass(frozen=True)
class Finding:
    """`names` are keys or members with what is special about each; `count` samples (or whole shards) are concerned."""

    shard: str
    kind: str
    effect: Effect
    count: int = 1
    names: tuple[tuple[str, str], ...] = ()
    detail: str = ""

    def facts(self, limit: int | None = None) -> dict[str, Any]:
        """As JSON, with the first `limit` names."""
        names = [{"name": name, **({"detail": detail} if detail else {})} for name, detail in self.names[:limit]]
        facts = {"kind": self.kind, "effect": self.effect, "shard": self.shard, "count": self.count}
        return facts | ({"detail": self.detail} if self.detail else {}) | ({"names": names} if names else {})


class Findings:
    """Collects the findings of one shard; a kind with nothing to name is no finding."""

    def __init__(self, shard: str) -> None:
        self.shard = shard
        self.found: list[Finding] = []

    def whole(self, kind: str, effect: Effect, detail: str = "", count: int = 1) -> None:
        """Something about the shard itself."""
        self.found.append(Finding(self.shard, kind, effect, count, detail=detail))

    def samples(self, kind: str, effect: Effect, names: Iterable[tuple[str, str]]) -> None:
        """Something about each of these samples."""
        listed = tuple(names)
        if listed:
            self.found.append(Finding(self.shard, kind, effect, len(listed), listed))
