"""The site of the documentation: it is complete, its links work, and it needs no network."""

import subprocess
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import embedder
from embedder import functions

ROOT = Path(__file__).parents[2]
# The attributes whose files a browser loads by itself. A link that is clicked may lead to another host.
LOADED = {("script", "src"), ("img", "src"), ("link", "href"), ("iframe", "src"), ("source", "src")}


@dataclass
class Page(HTMLParser):
    """The links and the anchors of a page."""

    links: list = field(default_factory=list)
    loaded: list = field(default_factory=list)
    anchors: set = field(default_factory=set)

    def __post_init__(self):
        super().__init__()

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            if name == "id":
                self.anchors.add(value)
            elif (tag, name) in LOADED:
                self.loaded.append(value)
            elif (tag, name) == ("a", "href"):
                self.links.append(value)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site. It is built as `make docs` builds it."""
    python = ROOT / ".venv/docs/bin/python"
    if not python.exists():
        pytest.skip(".venv/docs is not here: make docs")
    directory = tmp_path_factory.mktemp("site")
    answer = subprocess.run(
        [python, ROOT / "docs/site/build.py", "--output", directory], capture_output=True, text=True, cwd="/"
    )
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, f"wrote {directory / 'index.html'}\n", "")
    return directory


@pytest.fixture(scope="module")
def pages(site):
    pages = {}
    for path in site.rglob("*.html"):
        if path.name != "404.html":  # its links are absolute, as a server shows it at any path
            pages[path] = Page()
            pages[path].feed(path.read_text(encoding="utf-8"))
    return pages


def test_every_page_is_there(site):
    sources = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md"]
    sources += [path.relative_to(ROOT) for path in (ROOT / "docs").rglob("*.md")]
    sources += [path.relative_to(ROOT) for path in (ROOT / "benchmarks/results").glob("*.md")]
    for source in sources:
        assert site.joinpath(source).with_suffix(".html").exists() or source == "README.md", source
    assert "without PyTorch" in (site / "index.html").read_text(encoding="utf-8")


def test_nothing_is_loaded_from_another_host(site, pages):
    for path, page in pages.items():
        for link in page.loaded:
            assert not urlsplit(link).netloc, f"{path} loads {link}"


def test_every_link_leads_somewhere(pages):
    checked = 0
    for path, page in pages.items():
        for link in page.links + page.loaded:
            parts = urlsplit(link)
            if parts.scheme in ("http", "https"):
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            assert target.is_file(), f"{path} links to {link}"
            if parts.fragment and target in pages:
                assert unquote(parts.fragment) in pages[target].anchors, f"{path} links to {link}"
            checked += 1
    assert checked > 1000


def test_the_reference_has_every_public_name(pages):
    anchors = set().union(*(page.anchors for page in pages.values()))
    names = {f"embedder.{name}" for name in embedder.__all__} - {"embedder.__version__"}
    names |= {f"embedder.functions.{name}" for name in functions.__all__}
    assert names <= anchors


def test_the_search_finds_the_pages(site):
    index = (site / "search/search_index.js").read_text(encoding="utf-8")
    assert index.startswith("var __index")
    assert "semantic_search_quantized" in index
