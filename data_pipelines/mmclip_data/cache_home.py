"""Where mmclip keeps what it can make or fetch again."""

import os
from pathlib import Path


def cache_home() -> Path:
    """`$MMCLIP_CACHE`, else `mmclip` in the user's cache folder."""
    named = os.environ.get("MMCLIP_CACHE")
    return Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mmclip"
