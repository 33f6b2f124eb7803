"""The run files that come with mmclip."""

from pathlib import Path

from mmclip.errors import UserError


def packaged_config(name: str) -> Path:
    """The path of `launch/configs/NAME.toml`, in a checkout or in an installed package.

    Raises:
        UserError: there is no such file.
    """
    here = Path(__file__).parents[1]
    for folder in (here / "configs", here.parent / "configs"):
        if (folder / f"{name}.toml").is_file():
            return folder / f"{name}.toml"
    raise UserError(f"no packaged run file {name!r}: expected it in {here.parent / 'configs'}; reinstall mmclip")
