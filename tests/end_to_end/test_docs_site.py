"""The site of `make docs`: it builds without a warning, every link leads somewhere, and nothing comes from elsewhere."""

import os
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).parents[2]
LOADED = {("link", "href"), ("script", "src"), ("img", "src"), ("iframe", "src"), ("source", "src"), ("form", "action")}


class Page(HTMLParser):
    """Ids, links and loaded files of one page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("id", "name") and value:
                self.ids.add(value)
            if (tag, name) == ("a", "href") and value:
                self.links.append(value)
            if (tag, name) in LOADED and value and ("rel", "canonical") not in attrs:
                self.loaded.append(value)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [str(Path(sys.executable).parent / "mkdocs"), "build", "--strict", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    assert "WARNING" not in done.stdout + done.stderr
    return folder


@pytest.mark.slow
def test_every_internal_link_and_anchor_leads_somewhere(site: Path):
    pages = {path: Page(path) for path in site.rglob("*.html") if path.name != "404.html"}
    assert len(pages) >= 20
    broken = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.is_file() or (parts.fragment and unquote(parts.fragment) not in pages[target].ids):
                broken.append(f"{path.relative_to(site)}: {link}")
    assert broken == []


@pytest.mark.slow
def test_no_page_loads_anything_from_another_server(site: Path):
    loaded = {link for path in site.rglob("*.html") for link in Page(path).loaded}
    assert [link for link in loaded if urlsplit(link).netloc] == []
    assert "fonts.googleapis" not in "".join(path.read_text() for path in site.rglob("*.css"))
    # Scripts of the theme that fetch more do so for diagrams, repositories and search from a disk: none is used here.
    pages = "".join(path.read_text() for path in site.rglob("*.html"))
    assert 'class="mermaid"' not in pages
    assert 'data-md-component="source"' not in pages


@pytest.mark.slow
def test_the_reference_shows_shapes_and_fields(site: Path):
    training = (site / "reference" / "training.html").read_text()
    assert "batch embed" in training
    runs = (site / "reference" / "runs.html").read_text()
    assert "Samples of one optimizer step, all ranks together." in runs
