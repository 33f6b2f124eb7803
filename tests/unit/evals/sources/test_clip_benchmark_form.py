"""CLIP_benchmark's folder, byte for byte, on a disk, on a store and on the Hub; DataComp's vectors and objectives beside."""

import io
import pickle
from typing import Any

import numpy as np
import pytest

from mmclip.errors import UserError
from mmclip_eval.fields import parse_field, read_label


def vector(*values, dtype: Any = np.int64):
    buffer = io.BytesIO()
    np.save(buffer, np.array(values, dtype=dtype))
    return buffer.getvalue()


def same(one, other):
    assert one.labelled.labels.tolist() == other.labelled.labels.tolist()
    assert one.labelled.class_names == other.labelled.class_names
    assert one.prompts.prompts.templates == other.prompts.prompts.templates
    assert [one.samples.image_bytes(i) for i in range(6)] == [other.samples.image_bytes(i) for i in range(6)]
    assert one.samples.fingerprint == other.samples.fingerprint


def test_a_page_of_the_hub_is_read_from_its_raw_and_resolve_paths(
    classification_folder, serve, cache, opened, monkeypatch
):
    raw = serve(classification_folder, "/datasets/someone/wds_colours/raw/main")
    for path in classification_folder.rglob("*.tar"):
        place = f"/datasets/someone/wds_colours/resolve/main/{path.relative_to(classification_folder)}"
        raw.files[place] = raw.files.pop(place.replace("/resolve/", "/raw/"))  # of a tar, /raw/ has a pointer alone
    monkeypatch.setenv("HF_ENDPOINT", raw.url)
    page = "https://huggingface.co/datasets/someone/wds_colours/tree/main"
    found = opened(page, cache=cache)
    same(found, opened(classification_folder))
    assert found.labelled.class_names_source == f"{raw.url}/datasets/someone/wds_colours/raw/main/classnames.txt"
    assert len(opened(f"{raw.url}/datasets/someone/wds_colours/tree/main", cache=cache).samples) == 6


def test_a_folder_inside_a_repository_of_the_hub_is_read(retrieval_folder, serve, cache, opened, monkeypatch):
    server = serve(retrieval_folder, "/datasets/a/b/raw/v1.0/sets/captions")
    server.files |= {path.replace("/raw/", "/resolve/"): content for path, content in server.files.items()}
    monkeypatch.setenv("HF_ENDPOINT", server.url + "/")
    dataset = opened("https://huggingface.co/datasets/a/b/tree/v1.0/sets/captions", cache=cache)
    assert dataset.captioned.captions == opened(retrieval_folder).captioned.captions


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/datasets/someone/wds_colours", "expected https://huggingface.co/datasets/USER/NAME/tree/BRANCH"),
        ("/datasets/someone/wds_colours/tree/other", r"raw/other/test/nshards\.txt is missing"),
    ],
)
def test_a_page_that_is_no_folder_is_refused(classification_folder, serve, cache, opened, monkeypatch, path, message):
    server = serve(classification_folder, "/datasets/someone/wds_colours/raw/main")
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    with pytest.raises(UserError, match=message):
        opened(f"https://huggingface.co{path}", cache=cache)


def test_the_folder_is_found_on_any_store(classification_folder, serve, cache, opened):
    server = serve(classification_folder, "/sets/colours")
    same(opened(f"{server.url}/sets/colours", cache=cache), opened(classification_folder))
    server.files.pop("/sets/colours/test/1.tar")
    with pytest.raises(UserError, match=r"nothing at http.*/sets/colours/test/1\.tar"):
        opened(f"{server.url}/sets/colours", cache=cache)


def test_a_folder_without_any_text_is_known_by_its_count(classification_folder, opened):
    for name in ("classnames.txt", "zeroshot_classification_templates.txt"):
        (classification_folder / name).unlink()
    dataset = opened(classification_folder, class_names=("red", "green", "blue"), templates="none")
    assert dataset.labelled.labels.tolist() == [0, 1, 2, 0, 1, 2]


def test_the_type_is_read_as_clip_benchmark_reads_it(retrieval_folder, indexed):
    (retrieval_folder / "dataset_type.txt").write_text(" Retrieval\r\n")
    assert indexed(retrieval_folder).declared.dataset_type == "retrieval"


def test_lines_that_end_as_on_windows_are_the_same_names(classification_folder, opened):
    (classification_folder / "classnames.txt").write_bytes(b"red\r\ngreen\r\nblue\r\n")
    assert opened(classification_folder).labelled.class_names == ("red", "green", "blue")


@pytest.mark.parametrize(("escapes", "expected"), [(False, "first\\nsecond"), (True, "first\nsecond")])
def test_the_escape_of_a_line_break_is_read_where_it_is_asked_for(
    tmp_path, write_tar, picture, opened, escapes, expected
):
    # The exporter joins captions by line breaks, and writes one inside a caption as backslash and n.
    write_tar(tmp_path / "set" / "test" / "0.tar", [{"png": picture("red"), "txt": b"first\\nsecond\nother"}])
    (tmp_path / "set" / "test" / "nshards.txt").write_text("1")
    (tmp_path / "set" / "dataset_type.txt").write_text("retrieval")
    assert opened(tmp_path / "set", newline_escapes=escapes).captioned.captions == (expected, "other")


@pytest.fixture
def wilds(tmp_path, write_tar, picture):
    """As of DataComp: a vector of metadata beside the class."""
    root = tmp_path / "wds_wilds-camelyon17_test"
    rows = [("red", 0, vector(2, 7, 0)), ("blue", 1, vector(2, 8, 1)), ("red", 0, vector(5, 9, 0, dtype=np.float32))]
    samples = [{"png": picture(c), "cls": str(label).encode(), "npy": npy} for c, label, npy in rows]
    write_tar(root / "test" / "0.tar", samples)
    (root / "test" / "nshards.txt").write_text("1")
    (root / "classnames.txt").write_text("red\nblue\n")
    (root / "zeroshot_classification_templates.txt").write_text("a {c}\n")
    return root


def test_groups_and_labels_stand_in_a_vector_beside_the_class(wilds, opened):
    dataset = opened(wilds, group="npy:0")
    assert (dataset.groups.names, dataset.groups.of_sample.tolist()) == (("2", "5"), [0, 0, 1])
    assert opened(wilds, label="npy:2").labelled.labels.tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("npy:3", r"npy:3: expected a vector of at least 4 entries, got shape \(3,\)"),
        ("npy:x", "is no place in a sample"),
    ],
)
def test_an_entry_that_is_not_there_is_named(wilds, opened, place, message):
    with pytest.raises(UserError, match=message):
        opened(wilds, label=place)


def test_a_pickle_in_place_of_a_vector_is_not_opened():
    class Opened:
        def __reduce__(self):
            return (pytest.fail, ("a pickle was opened",))

    buffer = io.BytesIO()
    np.save(buffer, np.array([Opened()], dtype=object), allow_pickle=True)
    for content in (buffer.getvalue(), pickle.dumps(Opened())):
        with pytest.raises(UserError, match=r"sample a, member \.npy: not readable"):
            read_label(parse_field("npy:0", "label"), {"npy": content}, "a")


@pytest.fixture
def faces(wilds):
    """As FairFace: several classifications in one folder."""
    (wilds / "classnames.txt").write_text("age:young\nage:old\ngender:male\ngender:female\ngender:none: unknown\n")
    (wilds / "zeroshot_classification_templates.txt").write_text("age:a {c} person\ngender:a {c}\ngender:one {c}\n")
    return wilds


def test_the_lines_of_one_objective_are_taken(faces, opened):
    age = opened(faces, objective="age", label="npy:2")
    assert (age.labelled.class_names, age.prompts.prompts.templates) == (("young", "old"), ("a {c} person",))
    assert age.labelled.class_names_source.endswith("classnames.txt, age")
    gender = opened(faces, objective="gender", label="npy:2")
    assert gender.labelled.class_names == ("male", "female", "none: unknown")
    assert gender.prompts.prompts.templates == ("a {c}", "one {c}")


def test_an_objective_must_be_chosen_among_those_that_are_there(faces, opened):
    with pytest.raises(UserError, match="set objective to one of age, gender, and label to the place"):
        opened(faces)
    with pytest.raises(UserError, match=r"objective='race' is not in .*classnames\.txt.*: there are age, gender"):
        opened(faces, objective="race")


def test_an_objective_of_a_set_without_any_is_refused(wilds, opened):
    with pytest.raises(UserError, match="objective='age' is not in .*its lines name none"):
        opened(wilds, objective="age")


def test_names_with_a_colon_are_names(wilds, opened):
    (wilds / "classnames.txt").write_text("disk:c\ndisk:d\n")
    assert opened(wilds).labelled.class_names == ("disk:c", "disk:d")
