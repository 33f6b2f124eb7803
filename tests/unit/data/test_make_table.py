"""Tables of paths and captions to shards: original bytes, every row written or named, the same bytes however made."""

import csv
import json
import random
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from webdataset.compat import WebDataset

from mmclip.errors import UserError
from mmclip_data.pipelines.job import Dropped
from mmclip_data.pipelines.table import TableConfig, make_table
from mmclip_data.pipelines.table_rows import BadRow, Row, open_table
from mmclip_data.shards import build_index, open_index
from mmclip_data.testing.shard_faults import picture


def pictures(folder: Path, count: int) -> list[bytes]:
    """`count` files 0.jpg, 1.png, 2.webp, 3.jpg ..."""
    source = random.Random(0)
    folder.mkdir(parents=True, exist_ok=True)
    kinds = (("JPEG", "jpg"), ("PNG", "png"), ("WEBP", "webp"))
    made = [(number, picture(source, 16, kinds[number % 3][0]), kinds[number % 3][1]) for number in range(count)]
    for number, data, extension in made:
        (folder / f"{number}.{extension}").write_bytes(data)
    return [data for _, data, _ in made]


def name(number: int) -> str:
    return f"{number}.{('jpg', 'png', 'webp')[number % 3]}"


def config(tmp_path: Path, **changes: Any) -> TableConfig:
    return TableConfig(**({"source": tmp_path / "t.csv", "output": tmp_path / "out", "workers": 1} | changes))


def read(folder: Path) -> list[dict[str, Any]]:
    tars = sorted(folder.glob("*.tar"), key=lambda path: int(path.stem))
    for tar in tars:
        assert build_index(tar).fingerprint == open_index(tar).fingerprint
    return list(WebDataset([str(tar) for tar in tars], shardshuffle=False))


def image_of(sample: dict[str, Any]) -> bytes:
    return next(sample[extension] for extension in ("jpg", "png", "webp") if extension in sample)


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def write_csv(path: Path, rows: Sequence[Sequence[str]], separator: str = "\t") -> None:
    with path.open("w", newline="") as handle:
        csv.writer(handle, delimiter=separator).writerows(rows)


@pytest.mark.parametrize("kind", ["tab", "comma", "semicolon", "tsv", "jsonl", "parquet"])
def test_each_kind_of_table_gives_the_same_samples(tmp_path: Path, kind: str) -> None:
    made = pictures(tmp_path, 7)
    rows = [{"filepath": name(n), "title": f'a "red"\tboat, {n};', "similarity": n / 4} for n in range(7)]
    path = tmp_path / {"tsv": "t.tsv", "jsonl": "t.jsonl", "parquet": "t.parquet"}.get(kind, "t.csv")
    if kind == "jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    elif kind == "parquet":
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        separator = {"tab": "\t", "comma": ",", "semicolon": ";", "tsv": "\t"}[kind]
        write_csv(path, [list(rows[0]), *([str(cell) for cell in row.values()] for row in rows)], separator)
    report = make_table(config(tmp_path, source=path, samples_per_shard=3))
    samples = read(tmp_path / "out" / "train")
    assert [image_of(sample) for sample in samples] == made
    assert [sample["txt"].decode() for sample in samples] == [f'a "red" boat, {n};' for n in range(7)]
    facts = [json.loads(sample["json"]) for sample in samples]
    assert [(fact["filepath"], float(fact["similarity"])) for fact in facts] == [(name(n), n / 4) for n in range(7)]
    assert report.counts == {"rows": 7, "train samples": 7, "shards": 3}
    assert json.loads((tmp_path / "out/train/sizes.json").read_text()) == {"0.tar": 3, "1.tar": 3, "2.tar": 1}
    assert (tmp_path / "out/train/nshards.txt").read_text() == "3\n"


def test_parquet_may_hold_the_pictures_themselves(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    made = pictures(tmp_path, 3)
    cells = [{"bytes": data, "path": f"{n}.x"} for n, data in enumerate(made)]
    table = pyarrow.Table.from_pylist([{"image": cell, "TEXT": ["one", "two"]} for cell in cells])
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet")
    make_table(config(tmp_path, source=tmp_path / "t.parquet"))
    samples = read(tmp_path / "out" / "train")
    assert [image_of(sample) for sample in samples] == made
    assert {sample["txt"] for sample in samples} == {b"one\ntwo"}
    assert json.loads(samples[0]["json"]) == {"image": "0.x", "captions": ["one", "two"]}


def test_every_row_is_a_sample_or_is_named_with_its_reason(tmp_path: Path) -> None:
    made = pictures(tmp_path, 4)
    (tmp_path / "page.jpg").write_text("<html>not found</html>")
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "cut.jpg").write_bytes(made[0][: len(made[0]) // 2])
    rows = [
        ("filepath", "title", "x"),
        (name(0), "fine", "1"),
        ("gone.jpg", "no such file", "1"),
        ("page.jpg", "text", "1"),
        ("empty.jpg", "nothing", "1"),
        ("cut.jpg", "half", "1"),
        (name(1), " \t ", "1"),
        (name(2), "short row"),
        ("", "no path", "1"),
        ("https://example.org/1.jpg", "a URL", "1"),
        (name(3), "two\nlines", "1"),
    ]
    write_csv(tmp_path / "t.csv", rows, ",")
    with (tmp_path / "t.csv").open("ab") as handle:
        handle.write(b"1.png,gr\xfc\xdfe,1\n")
    report = make_table(config(tmp_path))
    samples = read(tmp_path / "out" / "train")
    assert [sample["txt"] for sample in samples] == [b"fine", b"two lines"]
    assert [image_of(sample) for sample in samples] == [made[0], made[3]]
    lines = (tmp_path / "out/train/dropped.jsonl").read_text().splitlines()
    dropped = [Dropped(**json.loads(line)) for line in lines]
    assert [(drop.source, drop.reason) for drop in dropped] == [
        ("t.csv:3", "picture's file is missing"),
        ("t.csv:4", "neither JPEG, PNG nor WebP inside"),
        ("t.csv:5", "picture is empty"),
        ("t.csv:6", "picture cannot be decoded"),
        ("t.csv:7", "no caption"),
        ("t.csv:8", "row has another number of fields than the header"),
        ("t.csv:9", "no picture in the row"),
        ("t.csv:10", "picture is a URL"),
        ("t.csv:13", "caption is not UTF-8"),  # the row before spans two lines
    ]
    assert sum(report.dropped.counts.values()) + report.counts["train samples"] == report.counts["rows"] == 11
    assert all(drop.source in "\n".join(report.lines()) for drop in dropped)


def test_the_number_of_workers_changes_no_byte(tmp_path: Path) -> None:
    pictures(tmp_path, 150)
    rows = [(name(n) if n % 7 else "gone.jpg", f"caption {n}") for n in range(150)]
    write_csv(tmp_path / "t.csv", [("filepath", "title"), *rows])
    make_table(config(tmp_path, samples_per_shard=20))
    make_table(config(tmp_path, samples_per_shard=20, workers=2, output=tmp_path / "again"))
    assert everything(tmp_path / "out") == everything(tmp_path / "again")


@pytest.mark.parametrize("kept_lines", [1, 2, 3, 4])
def test_a_stopped_job_goes_on_and_ends_with_the_same_bytes(tmp_path: Path, kept_lines: int) -> None:
    pictures(tmp_path, 30)
    rows = [(name(n) if n % 5 else "gone.jpg", f"caption {n}") for n in range(30)]
    write_csv(tmp_path / "t.csv", [("filepath", "title"), *rows])
    make_table(config(tmp_path, samples_per_shard=8))
    expected = everything(tmp_path / "out")
    folder = tmp_path / "out" / "train"
    # As a kill leaves it: lines of the journal missing, the next one torn, a shard half written, drops ahead of it.
    lines = (folder / "job.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "job.jsonl").write_bytes(b"".join(lines[:kept_lines]) + lines[kept_lines][:9])
    for path in [*folder.glob("*.tar*"), folder / "sizes.json", folder / "nshards.txt"]:
        if path.suffix != ".json" and int(path.name.split(".")[0] if path.name[0].isdigit() else 9) < kept_lines - 1:
            continue
        path.unlink()
    (folder / f".{kept_lines - 1}.tar.12345.partial").write_bytes(b"half")
    kept = {path: path.stat().st_mtime_ns for path in folder.glob("*.tar")}
    assert len(kept) == kept_lines - 1
    report = make_table(config(tmp_path, samples_per_shard=8))
    assert everything(tmp_path / "out") == expected
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert report.counts["train samples"] == 24
    assert report.dropped.counts == {"picture's file is missing": 6}


KILLED = """
import os, signal, sys
from pathlib import Path
from mmclip_data.pipelines.table import TableConfig, make_table
def bar(work, total, name):
    for number, item in enumerate(work):
        if number == int(sys.argv[3]):
            os.kill(os.getpid(), signal.SIGKILL)
        yield item
make_table(TableConfig(source=Path(sys.argv[1]), output=Path(sys.argv[2]), samples_per_shard=7, workers=1), bar)
"""


@pytest.mark.slow
@pytest.mark.parametrize("killed_at", [0, 6, 7, 8, 20, 39])
def test_a_killed_job_leaves_no_half_shard_and_ends_with_the_same_bytes(tmp_path: Path, killed_at: int) -> None:
    pictures(tmp_path, 40)
    write_csv(tmp_path / "t.csv", [("filepath", "title"), *((name(n), f"caption {n}") for n in range(40))])
    make_table(config(tmp_path, samples_per_shard=7))
    arguments = [str(tmp_path / "t.csv"), str(tmp_path / "again"), str(killed_at)]
    assert subprocess.run([sys.executable, "-c", KILLED, *arguments], check=False).returncode == -9
    tars = list((tmp_path / "again").rglob("*.tar"))
    assert len(tars) == killed_at // 7
    assert all(open_index(tar).num_samples == 7 for tar in tars)
    make_table(config(tmp_path, samples_per_shard=7, output=tmp_path / "again"))
    assert everything(tmp_path / "again") == everything(tmp_path / "out")


def test_a_second_run_writes_nothing_and_another_job_is_refused(tmp_path: Path) -> None:
    pictures(tmp_path, 6)
    write_csv(tmp_path / "t.csv", [("filepath", "title"), *((name(n), f"caption {n}") for n in range(6))])
    first = make_table(config(tmp_path))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.tar")}
    assert make_table(config(tmp_path)).counts == first.counts
    assert {path: path.stat().st_mtime_ns for path in before} == before
    with pytest.raises(UserError, match=r"another job \(samples_per_shard was 10000, is now 4\)"):
        make_table(config(tmp_path, samples_per_shard=4))
    write_csv(tmp_path / "t.csv", [("filepath", "title"), (name(0), "changed")])
    with pytest.raises(UserError, match=r"another job \(source was"):
        make_table(config(tmp_path))
    assert make_table(config(tmp_path, overwrite=True)).counts["train samples"] == 1
    assert len(read(tmp_path / "out" / "train")) == 1


def test_a_folder_with_anything_else_in_it_is_refused(tmp_path: Path) -> None:
    write_csv(tmp_path / "t.csv", [("filepath", "title"), (name(0), "a")])
    (tmp_path / "out" / "train").mkdir(parents=True)
    (tmp_path / "out" / "train" / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match="not empty"):
        make_table(config(tmp_path, overwrite=True))
    assert (tmp_path / "out" / "train" / "thesis.tex").read_text() == "x"


def test_relative_paths_count_from_the_table_or_from_image_root(tmp_path: Path) -> None:
    made = pictures(tmp_path / "pictures", 2)
    write_csv(
        tmp_path / "t.csv",
        [("Image_Path", "Caption"), (name(0), "zero"), (str(tmp_path / "pictures" / name(1)), "one")],
    )
    report = make_table(config(tmp_path))
    assert report.dropped.counts == {"picture's file is missing": 1}
    report = make_table(config(tmp_path, output=tmp_path / "again", image_root=tmp_path / "pictures"))
    assert [image_of(sample) for sample in read(tmp_path / "again" / "train")] == made
    assert report.notes == ["guessed; picture from 'Image_Path', caption from 'Caption', separated by '\\t'"]


@pytest.mark.parametrize(
    ("content", "changes", "message"),
    [
        ("url\tcaption\nx\ty\n", {}, "'url' holds URLs: download them first"),
        ("a\tb\nx\ty\n", {}, "none of its columns 'a', 'b' has a name that says image"),
        ("filepath\tb\nx\ty\n", {}, "says caption"),
        ("filepath\ttitle\nx\ty\n", {"image_column": "path"}, "has no such column; it has 'filepath', 'title'"),
        ("filepath\ttitle\n", {}, "no row below it"),
        ("", {}, "first line is empty"),
        ("filepath\tfilepath\nx\ty\n", {}, "named twice"),
        ('filepath\ttitle\nx\t"never closed\ny\tz\n', {}, "line 2: .*--no_quotes"),
        ("filepath\ttitle\ngone.jpg\ty\n", {}, "no sample is left to write; dropped 1 .picture's file is missing"),
        ("filepath\ttitle\nx\ty\n", {"separator": "tab"}, "expected one character"),
    ],
)
def test_a_table_that_cannot_be_used_says_why(
    tmp_path: Path, content: str, changes: dict[str, Any], message: str
) -> None:
    (tmp_path / "t.csv").write_text(content)
    with pytest.raises(UserError, match=message):
        make_table(config(tmp_path, **changes))


def test_quotation_marks_can_be_plain_characters(tmp_path: Path) -> None:
    (tmp_path / "t.tsv").write_text('filepath\ttitle\na\t"never closed\nb\tz\n')
    rows = list(open_table(tmp_path / "t.tsv", quotes=False).rows())
    assert [row.cells["title"] for row in rows if isinstance(row, Row)] == ['"never closed', "z"]


def test_lines_that_are_not_json_objects_are_bad_rows(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"filepath": "a", "title": "b"}\n\n[1]\n{"filepath": \n')
    rows = list(open_table(tmp_path / "t.jsonl").rows())
    assert [(row.line, type(row)) for row in rows] == [(1, Row), (3, BadRow), (4, BadRow)]


def test_columns_of_known_data_sets_are_found(tmp_path: Path) -> None:
    pictures(tmp_path, 1)
    for name, text, captions in (
        ("flickr30k.csv", "image_name| comment_number| comment\n0.jpg| 0| a dog\n", "a dog"),
        ("numbered.tsv", "filepath\tcaption_0\tcaption_1\tsplit\n0.jpg\ta dog\ta cat\tx\n", "a dog\na cat"),
    ):
        (tmp_path / name).write_text(text)
        make_table(config(tmp_path, source=tmp_path / name, output=tmp_path / f"{name}-out"))
        (sample,) = WebDataset([str(tmp_path / f"{name}-out/train/0.tar")], shardshuffle=False)
        assert sample["txt"].decode() == captions
    (tmp_path / "t.csv").write_text("filepath,words\n0.jpg,x\n")
    with pytest.raises(UserError, match=r"has a name that says caption \(title, caption"):
        make_table(config(tmp_path))


def test_rows_of_parquet_are_counted_without_reading_them(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([{"image": b"x", "text": "y"}] * 5), tmp_path / "t.parquet")
    assert len(replace(open_table(tmp_path / "t.parquet"), rows=lambda: pytest.fail("they were read"))) == 5
    (tmp_path / "t.csv").write_text("image,text\n0.jpg,a\nbad\n1.jpg,b\n")
    assert len(open_table(tmp_path / "t.csv")) == 3
