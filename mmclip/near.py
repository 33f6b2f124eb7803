"""What a word that nobody knows was meant to be: every message that guesses takes its guess here."""

import difflib
from collections.abc import Iterable

LISTED = 0.4
"""How alike, from 0 to 1, a known word must be to stand in a list of the nearest."""
GUESSED = 0.6
"""How alike it must be to be asked for by itself: a single wrong guess misleads, as `mae` for `imagenet` would."""


def nearest(word: str, known: Iterable[str], most: int = 3) -> list[str]:
    """Up to `most` known words that look like `word`, the most alike first; none where none does."""
    return difflib.get_close_matches(word, list(known), n=most, cutoff=LISTED)


def did_you_mean(word: str, known: Iterable[str], before: str = "", after: str = "") -> str:
    """`did you mean 'x'?` between what joins it to its sentence; nothing at all where no known word is like `word`."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=GUESSED)
    return f"{before}did you mean {_shown(near[0])}?{after}" if near else ""


def _shown(word: str) -> str:
    return word if word.startswith("--") else repr(word)  # a flag stands by itself, as it is typed
