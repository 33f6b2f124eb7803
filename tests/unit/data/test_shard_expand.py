"""What a person may write for "these shards"."""

import re
from pathlib import Path

import pytest

from mmclip.errors import UserError
from mmclip_data.shards import expand_shards


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in (
        "train-000.tar",
        "train-001.tar",
        "train-002.tar",
        "test-000.tar",
        "odd{1}[2].tar",
        "train-000.tar.mmidx",
    ):
        (tmp_path / name).touch()
    return tmp_path


def names(paths: list[Path]) -> list[str]:
    return [path.name for path in paths]


def test_braces_patterns_files_and_folders_name_shards_in_order(folder: Path) -> None:
    assert names(expand_shards(f"{folder}/train-{{000..002}}.tar")) == [
        "train-000.tar",
        "train-001.tar",
        "train-002.tar",
    ]
    assert names(expand_shards(f"{folder}/train-{{002,000}}.tar")) == ["train-002.tar", "train-000.tar"]
    assert names(expand_shards(f"{folder}/t*-00[01].tar")) == ["test-000.tar", "train-000.tar", "train-001.tar"]
    assert names(expand_shards(str(folder))) == sorted(path.name for path in folder.glob("*.tar"))
    joined = expand_shards(f"{folder}/train-001.tar::{folder}/t{{est,rain}}-000.tar")
    assert names(joined) == ["train-001.tar", "test-000.tar", "train-000.tar"]
    assert expand_shards([f"{folder}/train-001.tar", f"{folder}/t{{est,rain}}-000.tar"]) == joined


def test_a_file_whose_name_holds_braces_is_taken_as_it_is(folder: Path) -> None:
    assert names(expand_shards(f"{folder}/odd{{1}}[2].tar")) == ["odd{1}[2].tar"]


def test_embedded_names_the_data_that_comes_with_the_package() -> None:
    shards = expand_shards("embedded:emoji/train-*.tar")
    assert names(shards) == ["train-noto.tar", "train-twemoji.tar"]
    assert expand_shards("embedded:emoji/train-{noto,twemoji}.tar") == shards
    assert set(shards) < set(expand_shards("embedded:emoji"))


def test_a_missing_shard_of_a_range_is_named_with_what_stands_there_instead(folder: Path) -> None:
    with pytest.raises(UserError, match=r"nothing at .*train-003\.tar and 1 more; nearest in .*: train-00"):
        expand_shards(f"{folder}/train-{{000..004}}.tar")
    with pytest.raises(UserError, match=r"nothing at .*; nearest in .*"):
        expand_shards(f"{folder}/valid-*.tar")
    with pytest.raises(UserError, match=r"nothing at .*; nearest in "):
        expand_shards(f"{folder}/nowhere/train-000.tar")


def test_a_folder_without_tars_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no \.tar in the folder .*empty: it holds nothing"):
        expand_shards(str(tmp_path / "empty"))


@pytest.mark.parametrize(
    "spec", ["x-{0..99999999999}.tar", "{0..9999}{0..9999}.tar", "{a,b}" * 40, "{{0..2000},{0..2000}}-{0..2000}"]
)
def test_braces_that_would_fill_the_memory_are_refused_unexpanded(spec: str) -> None:
    with pytest.raises(UserError, match="at most 1000000 are allowed"):
        expand_shards(spec)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("pipe:curl -s http://example.org/a.tar", "a pipe would run a shell"),
        ("s3://bucket/a.tar", "URLs are not read here"),
        ("a{0..2.tar", "a brace without its partner"),
        ("", "empty name"),
        ("a.tar::", r"nothing at a\.tar|empty name"),
        ([], "names no shard"),
    ],
)
def test_what_cannot_name_local_shards_is_refused(spec: str | list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        expand_shards(spec)


def test_a_shard_named_twice_is_refused(folder: Path) -> None:
    with pytest.raises(UserError, match=r"names .*train-000\.tar twice"):
        expand_shards(f"{folder}/train-000.tar::{folder}/train-{{000..001}}.tar")


def test_a_folder_that_holds_other_things_says_which(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    for name in ("b.jpg", "a.jpg"):
        (tmp_path / "pictures" / name).touch()
    with pytest.raises(
        UserError, match=r"no \.tar in the folder .*pictures: it holds a\.jpg, b\.jpg; `mmclip shards make"
    ):
        expand_shards(str(tmp_path / "pictures"))
    (tmp_path / "data/train").mkdir(parents=True)
    (tmp_path / "data/train/0.tar").touch()
    with pytest.raises(UserError, match=r"no \.tar in .*data itself, but in train/: name one"):
        expand_shards(str(tmp_path / "data"))
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match="it holds nothing$"):
        expand_shards(str(tmp_path / "none"))


def test_a_tilde_is_the_users_folder_also_where_no_shell_expands_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.setenv("HOME", str(folder.parent))
    name = folder.name
    assert expand_shards(f"~/{name}") == expand_shards(str(folder))
    with pytest.raises(UserError, match=rf"shards='~/nowhere': nothing at {folder.parent}/nowhere"):
        expand_shards("~/nowhere")
    with pytest.raises(UserError, match="~nobody-of-that-name/x: no user 'nobody-of-that-name' on this machine"):
        expand_shards("~nobody-of-that-name/x")
    monkeypatch.chdir(tmp_path_factory.mktemp("here"))
    Path("~").mkdir()
    (Path("~") / "0.tar").touch()
    assert expand_shards("~/0.tar") == [Path("~/0.tar")], "what stands there is meant"


@pytest.mark.parametrize("name", ["$DATA", "${DATA}"])
def test_a_variable_that_nobody_replaced_is_told(name: str) -> None:
    with pytest.raises(UserError, match=rf"nothing at {re.escape(name)}/x; {re.escape(name)} is not replaced by what"):
        expand_shards(f"{name}/x")


def test_compressed_tars_are_told_with_what_unpacks_them(tmp_path: Path) -> None:
    (tmp_path / "0.tar.gz").touch()
    with pytest.raises(UserError, match=r"it holds 0.tar.gz; .*plain tars only: `cd \S+ && gunzip \*.tar.gz` unpacks"):
        expand_shards(str(tmp_path))
