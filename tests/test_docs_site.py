"""The documentation site builds without warnings and has no dead links."""

import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from doc_pages import PAGES, ROOT

import chordate

TOOLS = ("sphinx", "myst_parser", "furo", "sphinx_copybutton")
MISSING = [name for name in TOOLS if find_spec(name) is None]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f'needs {", ".join(MISSING)}: pip install -e ".[docs]"'),
]


class Page(HTMLParser):
    """Parses a built page: its anchors, links and images."""

    def __init__(self, path: Path):
        super().__init__()
        self.path = path
        self.anchors: set[str] = set()
        self.targets: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if value and name == "id":
                self.anchors.add(value)
            elif value and name in ("href", "src"):
                self.targets.append(value)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The documentation site, built with the options of `make docs`."""
    out = tmp_path_factory.mktemp("site")
    sphinx = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "--quiet"]
    command = [*sphinx, "-c", "docs", "-d", str(tmp_path_factory.mktemp("doctrees")), ".", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return out


@pytest.fixture(scope="module")
def built(site) -> dict[Path, Page]:
    return {path: Page(path) for path in site.rglob("*.html")}


def dead_links(site: Path, built: dict[Path, Page]) -> Iterator[str]:
    """Links and images within the site whose file or anchor does not exist."""
    for page in built.values():
        for target in page.targets:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            path = (page.path.parent / unquote(parts.path)).resolve() if parts.path else page.path
            anchor = unquote(parts.fragment)
            there = path.is_file() and path.is_relative_to(site)
            if not there or (anchor and path in built and anchor not in built[path].anchors):
                yield f"{page.path.relative_to(site)}: {target}"


def test_every_page_is_in_the_site(site, built):
    assert {site / path.relative_to(ROOT).with_suffix(".html") for path in PAGES} <= set(built)
    assert "docs/index.html" in built[site / "index.html"].targets


def test_no_link_of_the_site_is_dead(site, built):
    assert not list(dead_links(site.resolve(), built))


def test_a_dead_link_would_be_noticed(tmp_path):
    (tmp_path / "a.html").write_text('<a href="b.html">b</a><a href="#there">a</a><img src="c.png"><p id="here">')
    pages = {path: Page(path) for path in tmp_path.glob("*.html")}
    assert list(dead_links(tmp_path, pages)) == ["a.html: b.html", "a.html: #there", "a.html: c.png"]


def test_pages_load_nothing_from_elsewhere(built):
    """The site works offline, since its scripts and stylesheets are local."""
    for page in built.values():
        text = page.path.read_text(encoding="utf-8")
        assert '<script src="http' not in text and 'rel="stylesheet" type="text/css" href="http' not in text


def test_docstrings_link_to_the_entries_of_public_names(built):
    anchors = set().union(*(page.anchors for page in built.values()))
    assert {f"chordate.{name}" for name in chordate.__all__} <= anchors
    (batch,) = [page for path, page in built.items() if path.match("docs/api/contracts.html")]
    assert "structures.html#chordate.Batch" in batch.targets  # links from the signature of `Model.loss`
