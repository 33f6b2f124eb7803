import pytest

from mmclip.errors import BadSampleError, UserError
from mmclip_data.loading.captions import captions_of, choose_caption, members_of

SAMPLE = {"txt": b" a red apple \n", "json": b'{"captions": ["a red apple", "fruit", ""], "meta": {"alt": "an apple"}}'}


def test_captions_are_pooled_from_all_fields_without_repetition():
    assert captions_of(SAMPLE, ("txt", "json:captions", "json:meta.alt")) == ["a red apple", "fruit", "an apple"]


@pytest.mark.parametrize(
    ("sample", "fields", "reason"),
    [
        ({"txt": b"  \n"}, ("txt",), "no caption in txt"),
        ({}, ("txt", "json:a"), "no caption in txt, json:a"),
        ({"txt": b"\xff\xfe"}, ("txt",), "'txt'.*utf-8"),
        ({"json": b"{"}, ("json:a",), "'json'"),
        ({"json": b'{"a": 7}'}, ("json:a",), "no caption"),
        ({"json": b"[1]"}, ("json:a.b",), "no caption"),
    ],
)
def test_sample_without_a_caption_is_bad(sample: dict, fields: tuple, reason: str):
    with pytest.raises(BadSampleError, match=reason):
        captions_of(sample, fields)


def test_fields_name_the_members_to_read():
    assert members_of(("txt", "json:captions", "json:name")) == {"txt", "json"}


@pytest.mark.parametrize("field", ["", "txt:a", "json:", ":a"])
def test_malformed_field_is_refused(field: str):
    with pytest.raises(UserError, match="caption field"):
        members_of((field,))


def test_choice_is_a_function_of_seed_and_position():
    captions = ["a", "b", "c"]
    drawn = [choose_caption(captions, 0, position) for position in range(300)]
    assert drawn == [choose_caption(captions, 0, position) for position in range(300)]
    assert drawn != [choose_caption(captions, 1, position) for position in range(300)]
    assert all(70 < drawn.count(caption) < 130 for caption in captions)
