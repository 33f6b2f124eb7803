"""A report of a real run, opened in a real browser on a desk and on a phone, by day and by night."""

import importlib.util
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mmclip_data.shards import ShardWriter, expand_shards, open_index
from mmclip_data.shards.read import ShardReader
from mmclip_launch import evaluate, report
from mmclip_launch.cli import dispatch, run_verb
from mmclip_launch.run.config import load_run_config
from mmclip_launch.train import train

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Debian's chromium: tests/system_packages.sh"),
    pytest.mark.skipif(
        importlib.util.find_spec("playwright") is None, reason='needs playwright: pip install "mmclip[dev]"'
    ),
]

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
SIZES = {"desk": (1280, 900), "phone": (390, 844)}
SMALLEST_TEXT_PX = 10
RUN = """
output = "{folder}/run"
global_batch_size = 16
device = "cpu"
length = {{ steps = 12 }}
log_every_steps = 1
[data]
source = {{ type = "tars", shards = "embedded:emoji/unseen-concept-noto.tar" }}
workers = 0
[model]
arch = "nano-vit-32"
[evaluation]
every_steps = 4
[[evaluation.datasets]]
name = "names, 猫 <b>"
path = "{folder}/held-out"
label = "json:name"
group = "json:category"
templates = "emoji"
[[evaluation.datasets]]
name = "captions"
path = "{folder}/held-out"
tasks = ["zero_shot_retrieval"]
captions = ["json:captions"]
"""
TASKS = """
[[evaluation.datasets]]
name = "categories"
path = "{folder}/held-out"
label = "json:category"
group = "json:category"
templates = "emoji"
tasks = [
    "zero_shot_classification",
    {{ type = "worst_group", min_group_size = 3 }},
    {{ type = "linear_probe", train = "train" }},
    {{ type = "few_shot", train = "train", shots = [1, 2], draws = 2 }},
    {{ type = "tip_adapter", train = "train", shots = 2 }},
    {{ type = "knn", train = "train" }},
    "calibration",
    {{ type = "robustness", clean = "train" }},
    {{ type = "ood_detection", outside = ["train"] }},
]
[[evaluation.datasets]]
name = "train"
path = "embedded:emoji/unseen-concept-noto.tar"
label = "json:category"
templates = "emoji"
"""

FAULTS_ON_PAGE = """
(smallest) => {
  const faults = [], wide = document.documentElement.clientWidth;
  const name = (e) => `${e.tagName.toLowerCase()}.${e.getAttribute('class') || ''} ${e.textContent.trim().slice(0, 40)}`;
  const visible = (e) => e.checkVisibility({visibilityProperty: true, opacityProperty: true}) && !e.closest('.hidden, .skip');
  if (document.documentElement.scrollWidth > wide) faults.push('the page scrolls sideways');
  for (const e of document.body.querySelectorAll('*')) {
    if (!visible(e)) continue;
    const box = e.getBoundingClientRect();
    const free = e.closest('.scroll');
    if (!free && box.width && (box.right > wide + 0.5 || box.left < -0.5)) faults.push(`beyond the edge: ${name(e)}`);
    if (!free && !(e instanceof SVGElement) && getComputedStyle(e).display !== 'inline' && e.scrollWidth > e.clientWidth + 1)
      faults.push(`overflows its box: ${name(e)} ${e.scrollWidth} > ${e.clientWidth}`);
    const words = [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
    if (words && !['TITLE', 'DESC'].includes(e.tagName.toUpperCase())) {
      let size = parseFloat(getComputedStyle(e).fontSize);
      if (e.ownerSVGElement) size *= e.ownerSVGElement.getScreenCTM().a;
      if (size < smallest) faults.push(`text of ${size.toFixed(1)} px: ${name(e)}`);
    }
  }
  for (const image of document.images) {
    if (!image.naturalWidth) faults.push(`broken picture: ${image.alt}`);
    const box = image.getBoundingClientRect();
    if (box.width > image.naturalWidth + 0.5 || box.height > image.naturalHeight + 0.5)
      faults.push(`blurred picture: ${image.alt} ${box.width} > ${image.naturalWidth}`);
    if (!image.alt) faults.push('a picture without a text');
  }
  return faults;
}
"""
CONTRAST_FAULTS = """
() => {
  const parse = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => (v /= 255) <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const ground = (e) => {
    for (; e; e = e.parentElement) {
      const colour = parse(getComputedStyle(e).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const faults = [];
  for (const e of document.body.querySelectorAll('*')) {
    if (e instanceof SVGElement || !e.checkVisibility() || e.closest('.hidden, .skip')) continue;
    if (![...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim())) continue;
    const style = getComputedStyle(e), over = light(parse(style.color)), under = light(ground(e));
    const ratio = (Math.max(over, under) + .05) / (Math.min(over, under) + .05);
    const large = parseFloat(style.fontSize) >= 24 || (parseFloat(style.fontSize) >= 18.7 && Number(style.fontWeight) >= 700);
    if (ratio < (large ? 3 : 4.5)) faults.push(`contrast ${ratio.toFixed(2)}: ${e.textContent.trim().slice(0, 40)}`);
  }
  return faults;
}
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=shutil.which("chromium"), args=list(FLAGS))
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a run of a few steps with a set of each kind."""
    folder = tmp_path_factory.mktemp("report")
    (tar,) = expand_shards("embedded:emoji/unseen-concept-twemoji.tar")
    with ShardReader(tar, open_index(tar)) as reader, ShardWriter(folder / "held-out", "part-{:d}.tar", 1000) as writer:
        for row in range(0, 254, 4):
            writer.add(reader.index.key(row), reader.read(row))
    (folder / "run.toml").write_text(RUN.format(folder=folder))
    return train(load_run_config(folder / "run.toml")) / "report" / "index.html"


@pytest.fixture(scope="module")
def tasks_page(page_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of an evaluation under ten tasks; beside it lies the page over two checkpoints."""
    run = tmp_path_factory.mktemp("tasks") / "run"
    shutil.copytree(page_file.parent.parent, run)
    shutil.rmtree(run / "results")
    (run / "config.toml").write_text((RUN + TASKS).format(folder=page_file.parent.parent.parent))
    evaluate.main([str(run)])
    (run / "others").mkdir()
    for path in (run / "results").glob("*.json"):
        content = json.loads(path.read_text())
        content["checkpoint"]["weights_sha256"] = "00"
        content["pretrained"] = "a-run-with-a-long-name/checkpoints/step-00000007"
        (run / "others" / path.name).write_text(json.dumps(content))
    report.main(["--results", str(run / "results"), str(run / "others"), "--output", str(run)])
    return run / "report" / "index.html"


@pytest.fixture(scope="module")
def compared_page(page_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page that compares the run with one of another seed, with everything that it may show."""
    folder = page_file.parent.parent.parent
    other = tmp_path_factory.mktemp("other") / "run"
    train(load_run_config(folder / "run.toml", ["--seed", "1", "--output", str(other), "--length.steps", "40"]))
    words = ["compare", str(folder / "run"), str(other), "--data", f"{folder}/held-out", "--label", "json:name"]
    words += ["--group", "json:category", "--templates", "emoji", "--sparse", "--accept-look"]
    words += ["--against", *[str(other)] * 3, "--contrasim", "--output", str(other.parent / "out")]
    assert run_verb(dispatch, words) in (0, 4)
    return other.parent / "out" / "index.html"


def faults_of(browser: Any, page_file: Path, size: str, scheme: str) -> list[str]:
    """Everything that is wrong with a page when it is opened so."""
    width, height = SIZES[size]
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    page = context.new_page()
    faults: list[str] = []
    address = page_file.as_uri()
    page.on("console", lambda m: faults.append(f"console {m.type}: {m.text}") if m.type == "error" else None)
    page.on("pageerror", lambda error: faults.append(f"page error: {error}"))
    page.on(
        "request",
        lambda r: None if r.url == address or r.url.startswith("data:") else faults.append(f"request: {r.url}"),
    )
    page.goto(address, wait_until="load")
    for details in page.query_selector_all("details"):
        details.evaluate("e => e.open = true")
    faults += page.evaluate(FAULTS_ON_PAGE, SMALLEST_TEXT_PX)
    faults += page.evaluate(CONTRAST_FAULTS)
    context.close()
    return faults


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", list(SIZES))
def test_the_page_has_no_fault(browser: Any, page_file: Path, size: str, scheme: str):
    assert faults_of(browser, page_file, size, scheme) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", list(SIZES))
@pytest.mark.parametrize("name", ["index.html", "comparison.html"])
def test_pages_of_many_tasks_have_no_fault(browser: Any, tasks_page: Path, name: str, size: str, scheme: str):
    path = tasks_page.with_name(name)
    assert path.stat().st_size < 3_000_000
    assert faults_of(browser, path, size, scheme) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", list(SIZES))
def test_the_page_of_a_comparison_has_no_fault(browser: Any, compared_page: Path, size: str, scheme: str):
    assert compared_page.stat().st_size < 3_000_000
    assert faults_of(browser, compared_page, size, scheme) == []


def test_the_page_of_a_comparison_is_complete(browser: Any, compared_page: Path):
    page = browser.new_page()
    page.goto(compared_page.as_uri())
    headings = [heading.inner_text() for heading in page.query_selector_all("h2")]
    wanted = ["Layers of the image towers", "Layers of the text towers", "Maps of the pictures"]
    wanted += ["Units of the embeddings", "The learned similarity", "All figures"]
    assert [title for title in wanted if title not in headings] == []
    assert page.query_selector_all("article.flip img"), "pictures that flipped"
    for link in page.query_selector_all("nav a"):
        assert page.query_selector(str(link.get_attribute("href"))) is not None
    page.close()


def test_every_task_has_its_drawings(browser: Any, tasks_page: Path):
    page = browser.new_page()
    page.goto(tasks_page.as_uri())
    titles = {title.text_content() for title in page.query_selector_all("#scores svg.figure > title")}
    wanted = [
        "Accuracy by class",
        "What is taken for what",
        "Accuracy by group",
        "Accuracy with few examples",
        "Calibration",
    ]
    assert [title for title in [*wanted, "Energy, beside train"] if title not in titles] == []
    page.close()


def test_the_page_is_small_and_complete(browser: Any, page_file: Path):
    assert page_file.stat().st_size < 5_000_000
    page = browser.new_page()
    page.goto(page_file.as_uri())
    headings = [heading.inner_text() for heading in page.query_selector_all("h2")]
    wanted = ["Scores", "Training", "Scores over the run", "Health", "names, 猫 <b>", "captions"]
    assert [title for title in wanted if title not in headings] == []
    assert len(page.query_selector_all("img")) > 60
    assert len(page.query_selector_all("svg.figure")) > 12
    for link in page.query_selector_all("nav a"):
        assert page.query_selector(str(link.get_attribute("href"))) is not None
    page.close()


def test_day_and_night_differ(browser: Any, page_file: Path):
    grounds = set()
    for scheme in ("light", "dark"):
        context = browser.new_context(color_scheme=scheme)
        page = context.new_page()
        page.goto(page_file.as_uri())
        grounds.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        context.close()
    assert len(grounds) == 2


DOT = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ('<p style="width:900px">wide</p>', "beyond the edge"),
        ('<p style="white-space:nowrap;overflow:hidden;width:50px">one two three four</p>', "overflows its box"),
        ('<img alt="a" src="data:image/png;base64,AAAA">', "broken picture"),
        (f'<img alt="a" src="{DOT}" width="40" height="40">', "blurred picture"),
        ('<img alt="a" src="https://example.org/a.png">', "request: https://example.org/a.png"),
        ("<script>console.error('oh')</script>", "console error: oh"),
        ("<script>throw new Error('oh')</script>", "page error"),
        ('<p style="font-size:8px">small</p>', "text of 8.0 px"),
        ('<svg viewBox="0 0 1000 10" width="300"><text font-size="11" y="9">tiny</text></svg>', "text of 3.3 px"),
        ('<p style="color:#aaa">pale</p>', "contrast 2.32"),
        (
            '<p class="scroll" style="overflow-x:auto;width:90px"><b style="white-space:nowrap">a line that scrolls</b></p>',
            "",
        ),
    ],
)
def test_a_broken_page_is_found_out(browser: Any, tmp_path: Path, body: str, fault: str):
    path = tmp_path / "page.html"
    path.write_text(
        f'<!doctype html><html lang="en"><meta charset="utf-8"><body style="background:#fff">{body}</body></html>'
    )
    faults = [text for text in faults_of(browser, path, "phone", "light") if "favicon" not in text]
    assert any(text.startswith(fault) for text in faults) if fault else faults == [], faults
