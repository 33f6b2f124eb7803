"""A hundred captions that break things: each ends as text or as a bad sample, quickly, and never as a crash."""

import io
import random
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
from PIL import Image

from mmclip.batch import DataPosition
from mmclip.errors import BadSampleError
from mmclip.preprocess import ImageSpec
from mmclip.tokenizer import Tokenizer
from mmclip_data.loading.captions import captions_of, choose_caption
from mmclip_data.loading.loader import DataConfig, TrainLoader
from mmclip_data.loading.planned import Layout
from mmclip_data.loading.sources import IndexedTarsConfig
from mmclip_data.shards import ShardWriter

MB = 1_000_000
FIELDS = ("txt", "json:caption")

TEXTS = {
    "plain": "a red apple",
    "accents": "cafe\u0301 nai\u0308ve \u00c5ngstr\u00f6m",
    "BOM before": "\ufeffa red apple",
    "NUL inside": "a red\0apple",
    "NUL around": "\0\0a red apple\0",
    "bell and escape": "a\x07 red \x1b[31mapple\x1b[0m",
    "delete": "a\x7fb",
    "C1 controls": "a\x80\x9fb",
    "carriage returns": "a\r\nb\rc",
    "vertical tabs": "a\vb\fc",
    "tabs": "\ta\tb\t",
    "next line": "a\x85b",
    "line separators": "a\u2028b\u2029c",
    "no-break spaces": "a\u00a0b\u202fc\u2007d",
    "ideographic space": "\u3000a\u3000",
    "right to left": "\u05d0\u05d1\u05d2 apple",
    "Arabic": "\u062a\u0641\u0627\u062d\u0629 \u062d\u0645\u0631\u0627\u0621",
    "bidi override": "\u202eelppa der a\u202c",
    "bidi isolates": "\u2066a\u2069 \u2067b\u2069",
    "bidi never closed": "\u202a" * 300 + "a",
    "zero-width inside": "a\u200bred\u200capple\u200d",
    "soft hyphens": "ap\u00adple",
    "word joiners": "a\u2060b\u2060c",
    "variation selectors": "\u2764\ufe0f \u2764\ufe0e",
    "emoji": "\U0001f34e\U0001f34f\U0001f95d",
    "emoji family": "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466",
    "emoji skin": "\U0001f44b\U0001f3fd",
    "flags": "\U0001f1e9\U0001f1ea\U0001f1eb\U0001f1f7",
    "half a flag": "\U0001f1e9",
    "keycap": "1\ufe0f\u20e3",
    "tags": "\U0001f3f4\U000e0067\U000e0062\U000e007f",
    "many accents": "a" + "\u0301" * 500,
    "Zalgo": "".join(letter + "\u0300\u0316\u0334" * 20 for letter in "apple"),
    "accent alone": "\u0301",
    "CJK": "\u4e00\u500b\u7d05\u82f9\u679c",
    "full width": "\uff41\u3000\uff52\uff45\uff44",
    "Hangul parts": "\u1100\u1161\u11a8",
    "Devanagari": "\u0932\u093e\u0932 \u0938\u0947\u092c",
    "Thai": "\u0e41\u0e2d\u0e1b\u0e40\u0e1b\u0e34\u0e49\u0e25",
    "ancient": "\U00012000\U00013000",
    "mathematical": "\U0001d41a \U0001d42b\U0001d41e\U0001d41d",
    "private use": "\ue000\ue001 a",
    "not a character": "\ufffe\uffff a",
    "last code point": "\U0010ffff a",
    "unassigned": "\u0378\u0379 a",
    "replacement characters": "\ufffd\ufffd apple",
    "mojibake": "a caf\u00c3\u00a9 \u00e2\u20ac\u2122s",
    "mojibake many times": "\u00c3\u0192\u00c2\u00a9" * 200,
    "HTML": "<b>a</b> &amp; &lt;img src=x onerror=alert(1)&gt;",
    "HTML nested": "&amp;" * 1 + "amp;" * 500 + "lt;",
    "HTML number": "&#65;&#x41;&#1114112;&#xd800;&#0;",
    "special tokens": "<start_of_text> a <end_of_text>",
    "special tokens lower and upper": "<|endoftext|> <START_OF_TEXT>",
    "JSON": '{"caption": "a"}',
    "quotes": "\"'`\u201c\u201d\u2018\u2019\u00ab\u00bb",
    "backslashes": "\\n\\x00\\u0000\\",
    "format string": "%s%n%x {0} {__class__} ${jndi:ldap://x}",
    "SQL": "'; DROP TABLE samples; --",
    "shell": "$(rm -rf /) `id` | cat; &",
    "path": "../../../../etc/passwd",
    "URL": "https://example.org/" + "a/" * 300,
    "digits": "1" * 2000,
    "marks": "!?.,;:" * 500,
    "dashes": "-" * 3000,
    "underscores": "_" * 3000,
    "Turkish i": "\u0130\u0131I i",
    "sharp s": "STRASSE stra\u00dfe \u1e9e",
    "ligatures": "\ufb01\ufb02 \ufdfa",
    "grows when lowered": "\u0130" * 400,
    "1 MB of words": "word " * (MB // 5),
    "1 MB of one letter": "a" * MB,
    "1 MB of letters": "".join(chr(97 + (i * i * 7 + i // 3) % 26) for i in range(MB)),
    "1 MB of emoji": "\U0001f34e\U0001f600" * (MB // 8),
    "1 MB of zero-width and a letter": "x" + "\u200b" * (MB // 3),
    "1 MB of accents": "a" + "\u0301" * (MB // 2),
    "1 MB of CJK": "\u4e00\u500b\u7d05" * (MB // 9),
    "1 MB of mojibake": "\u00c3\u00a9" * (MB // 4),
    "1 MB of HTML": "&amp;lt;" * (MB // 8),
    "1 MB of spaces and a word": " " * 100 + "a" + " " * MB,
}
BYTES = {
    "empty": b"",
    "blank": b" \n\t ",
    "BOM alone": b"\xef\xbb\xbf",
    "NULs": b"\0" * 50,
    "zero-width alone": "\u200b\u200d\u2060".encode(),
    "bidi alone": "\u202e\u202c\u2066".encode(),
    "Latin-1": "caf\xe9".encode("latin-1"),
    "UTF-16 with BOM": "a red apple".encode("utf-16"),
    "UTF-16 accents": "caf\xe9".encode("utf-16-be"),
    "Shift JIS": "\u8d64\u3044\u308a\u3093\u3054".encode("shift_jis"),
    "cut UTF-8": "caf\xe9".encode()[:-1],
    "overlong": b"\xc0\xaf apple",
    "surrogate in UTF-8": b"\xed\xa0\x80 apple",
    "beyond Unicode": b"\xf4\x90\x80\x80",
    "random": bytes(range(256)),
    "gzip": b"\x1f\x8b\x08\x00" + bytes(20),
}
RECORDS = {
    "lone surrogate": b'{"caption": "a \\ud83d apple"}',
    "surrogates in the wrong order": b'{"caption": "\\udf4e\\ud83c apple"}',
    "surrogate alone": b'{"caption": "\\ud800"}',
    "escaped NUL": b'{"caption": "a\\u0000b"}',
    "number": b'{"caption": 7}',
    "null": b'{"caption": null}',
    "list of anything": b'{"caption": [null, 3, {}, "  ", "an apple"]}',
    "not JSON": b"{caption: apple}",
    "cut": b'{"caption": "an app',
    "deep": b'{"caption": ' + b"[" * 5000 + b"]" * 5000 + b"}",
    "NaN": b'{"caption": NaN}',
    "huge number": b'{"caption": "apple", "n": ' + b"9" * 5000 + b"}",
    "UTF-16": '{"caption": "an apple"}'.encode("utf-16"),
}
BAD = {*BYTES, "number", "null", "not JSON", "cut", "deep", "NaN", "huge number"}
SAMPLES = (
    {name: {"txt": text.encode()} for name, text in TEXTS.items()}
    | {name: {"txt": data} for name, data in BYTES.items()}
    | {name: {"json": data} for name, data in RECORDS.items()}
)
TOKENIZER = Tokenizer({})


def test_there_are_a_hundred():
    assert len(SAMPLES) >= 100


@pytest.mark.parametrize("name", SAMPLES)
def test_hostile_caption_ends_as_text_or_as_a_bad_sample(name: str):
    if name in BAD:
        with pytest.raises(BadSampleError) as caught:
            captions_of(SAMPLES[name], FIELDS)
        assert len(str(caught.value)) < 2000
        return
    caption = choose_caption(captions_of(SAMPLES[name], FIELDS), 0, 0)
    caption.encode()  # whoever writes it to a file can
    (row,) = TOKENIZER([caption])
    assert row.shape == (77,)
    assert int(row.max()) == row[row.argmax()] == 49407, "the end token is there"
    assert 1 < int(row.argmax()) < 77


def test_loader_counts_each_that_is_bad_and_trains_on_the_rest(tmp_path: Path):
    out = io.BytesIO()
    Image.new("RGB", (8, 8), (200, 30, 30)).save(out, "PNG")
    with ShardWriter(tmp_path, "hostile.tar", samples_per_shard=None) as writer:
        for number, members in enumerate(SAMPLES.values()):
            writer.add(f"{number:03d}", {"png": out.getvalue(), **members})
    config = DataConfig(source=IndexedTarsConfig(shards=str(tmp_path)), captions=FIELDS, workers=0)
    loader = TrainLoader(config, ImageSpec(size=(8, 8)), TOKENIZER, Layout(len(SAMPLES)), 0)
    batch = next(loader.batches(DataPosition(0)))
    names = {f"train/hostile.tar/{number:03d}": name for number, name in enumerate(SAMPLES)}
    assert {names[entry.sample_id] for entry in batch.replaced} == BAD & set(SAMPLES)
    assert len(batch.ids) == len(SAMPLES)
    assert max(Counter(batch.ids).values()) < len(BAD)


def cpu_seconds(texts: list[str]) -> float:
    """The least of three times for captions whose words are all new."""
    assert TOKENIZER._words is not None
    found = []
    for _ in range(3):
        TOKENIZER._words._known = {}
        started = time.process_time()
        TOKENIZER(texts)
        found.append(time.process_time() - started)
    return min(found)


@pytest.fixture(scope="module")
def ordinary() -> float:
    rng = random.Random(0)
    return cpu_seconds([" ".join("".join(rng.choices("aeioumnrst", k=7)) for _ in range(12)) for _ in range(400)])


@pytest.mark.parametrize("name", [name for name in TEXTS if name.startswith("1 MB")])
def test_huge_caption_costs_less_than_a_few_hundred_ordinary_ones(name: str, ordinary: float):
    """Relative, because machines differ; 10 ms where these captions of new words take 40. It was 1,200 ms uncut."""
    assert cpu_seconds([TEXTS[name]]) < ordinary


def test_tokens_are_those_of_open_clips_own_tokenizer():
    from open_clip.tokenizer import SimpleTokenizer

    texts = [text[: 77 * 16] for text in TEXTS.values()]
    assert torch.equal(TOKENIZER(texts), SimpleTokenizer()(texts))


def test_known_words_do_not_grow_without_bound(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("mmclip.tokenizer.CACHED_WORDS", 50)
    tokenizer = Tokenizer({})
    for number in range(200):
        tokenizer([f"new{chr(97 + number % 26)}{chr(97 + number // 26)} word"])
    assert tokenizer._words is not None
    assert len(tokenizer._words._known) <= 50
    assert len(tokenizer._tokenizer.cache) < 10, "nor does open_clip's own cache"
