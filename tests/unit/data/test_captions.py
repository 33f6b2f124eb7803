import pytest

from mmclip.errors import BadSampleError, UserError
from mmclip_data.loading.captions import captions_of, choose_caption, members_of

SAMPLE = {"txt": b" a red apple \n", "json": b'{"captions": ["a red apple", "fruit", ""], "meta": {"alt": "an apple"}}'}


def test_captions_come_in_a_list_for_each_field():
    fields = ("txt", "json:captions", "json:nothing", "json:meta.alt")
    assert captions_of(SAMPLE, fields) == [["a red apple"], ["a red apple", "fruit"], ["an apple"]]


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


def test_choice_is_a_function_of_seed_and_position_and_fair_between_fields():
    captions = [["a"], ["b", "c"]]
    drawn = [choose_caption(captions, 0, position) for position in range(400)]
    assert drawn == [choose_caption(captions, 0, position) for position in range(400)]
    assert drawn != [choose_caption(captions, 1, position) for position in range(400)]
    assert 160 < drawn.count("a") < 240
    assert all(70 < drawn.count(caption) < 130 for caption in "bc")
