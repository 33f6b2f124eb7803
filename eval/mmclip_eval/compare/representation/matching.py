"""Which layer of one model stands beside which of another: by depth, relative to how deep each is."""

import re
from collections.abc import Sequence

LAYER = re.compile(r"(?:block|stage) (\d+) (pooled|mean)")


def matched_layers(names: Sequence[str], others: Sequence[str]) -> list[tuple[str, str]]:
    """Each layer of the first model with the other's of the same kind at the same share of its depth; then what both name.

    A kind that the other lacks, as a network of convolutions has no pooled token, is left out.
    """
    depth: dict[str, dict[int, str]] = {"pooled": {}, "mean": {}}
    for name in others:
        if found := LAYER.fullmatch(name):
            depth[found[2]][int(found[1])] = name
    own = [LAYER.fullmatch(name) for name in names]
    deepest = max((int(found[1]) for found in own if found), default=0)
    pairs: list[tuple[str, str]] = []
    for name, found in zip(names, own, strict=True):
        if found is None:
            if name in others:
                pairs.append((name, name))
        elif beside := depth[found[2]]:
            place = max(1, round(int(found[1]) / deepest * max(beside)))
            pairs.append((name, beside[place]))
    return pairs
