"""Rules by which a caption is good enough: its length, what must or must not be in it, and its script."""

import re
import unicodedata
from functools import lru_cache
from typing import Literal

from mmclip.config import config
from mmclip.errors import UserError

Script = Literal["latin", "cyrillic", "greek", "arabic", "hebrew", "devanagari", "thai", "han", "kana", "hangul", "cjk"]
BLOCKS: dict[str, tuple[str, ...]] = {
    "han": ("CJK",),
    "kana": ("HIRAGANA", "KATAKANA"),
    "cjk": ("CJK", "HIRAGANA", "KATAKANA", "HANGUL"),
}
"""First words of Unicode's character names, where they are not the script's own."""
WIDTHS = ("FULLWIDTH ", "HALFWIDTH ", "MODIFIER LETTER ")


@config
class CaptionRules:
    """Each rule that is given must hold for each caption of a sample."""

    min_length: int | None = None
    """Characters, spaces at the ends not counted."""
    max_length: int | None = None
    """Characters, spaces at the ends not counted."""
    min_words: int | None = None
    """Words between spaces."""
    max_words: int | None = None
    """Words between spaces."""
    matches: str | None = None
    """A regular expression that must be found in it."""
    excludes: str | None = None
    """A regular expression that must not be found in it."""
    script: Script | None = None
    """The script of its letters."""
    script_share: float = 0.5
    """With `script`: the least share of its letters in that script."""

    def check(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            UserError: a pattern is no regular expression, or a number is out of its range.
        """
        for name in ("matches", "excludes"):
            try:
                re.compile(getattr(self, name) or "")
            except re.error as error:
                raise UserError(
                    f"caption.{name}={getattr(self, name)!r}: not a regular expression ({error})"
                ) from error
        if not 0 < self.script_share <= 1:
            raise UserError(f"caption.script_share={self.script_share}: expected more than 0 and at most 1")

    @property
    def any(self) -> bool:
        """Whether there is a rule at all."""
        return self != CaptionRules(script_share=self.script_share)

    def broken_by(self, caption: str) -> str | None:
        """The first rule that `caption` breaks, or None."""
        text = caption.strip()
        words = len(text.split())
        if self.min_length is not None and len(text) < self.min_length:
            return f"caption is shorter than {self.min_length} characters"
        if self.max_length is not None and len(text) > self.max_length:
            return f"caption is longer than {self.max_length} characters"
        if self.min_words is not None and words < self.min_words:
            return f"caption has fewer than {self.min_words} words"
        if self.max_words is not None and words > self.max_words:
            return f"caption has more than {self.max_words} words"
        if self.matches is not None and not re.search(self.matches, text):
            return "caption does not match"
        if self.excludes is not None and re.search(self.excludes, text):
            return "caption has what is excluded"
        if self.script is not None and script_share(text, self.script) < self.script_share:
            return f"caption is not written in {self.script}"
        return None


def script_share(text: str, script: Script) -> float:
    """The share of the letters of `text` that belong to `script`; 0 for a text without letters."""
    letters = [character for character in text if character.isalpha()]
    return sum(_in_script(letter, script) for letter in letters) / len(letters) if letters else 0.0


@lru_cache(maxsize=1 << 16)
def _in_script(letter: str, script: Script) -> bool:
    name = unicodedata.name(letter, "")
    for width in WIDTHS:
        name = name.removeprefix(width)
    return name.startswith(BLOCKS.get(script, (script.upper(),)))
