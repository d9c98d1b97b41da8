"""The site is built without network, nothing on it leads nowhere, and everything public is on it."""

from __future__ import annotations

import importlib.util
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote

import pytest

import memory_defense
from memory_defense.attacks import ATTACKS

ROOT = Path(__file__).parents[2]
EXTERNAL = re.compile(r"^(https?:)?//|^(mailto|data|javascript):")
LOADED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href"}
"""What a browser fetches by itself, unlike the target of a link."""


@pytest.fixture(scope="module")
def make_site() -> ModuleType:
    """Return the script, which finds its neighbour as it does when it is run."""
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        found = importlib.util.spec_from_file_location("make_site", ROOT / "docs" / "make_site.py")
        assert found is not None
        assert found.loader is not None
        module = importlib.util.module_from_spec(found)
        found.loader.exec_module(module)
    finally:
        sys.path.remove(str(ROOT / "docs"))
    return module


class Page(HTMLParser):
    """The anchors of a page, where it leads, and what it loads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if LOADED.get(tag) in given and given.get("rel") != "canonical":
            self.loaded.append(given[LOADED[tag]])


@pytest.fixture(scope="module")
def site(make_site: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> dict[Path, Page]:
    """Return every page of a site built anew below the repository's build folder, as ``make site`` builds it."""
    pytest.importorskip("zensical", reason="pip install '.[dev]' brings the site's generator")
    pytest.importorskip("mkdocstrings_handlers.python", reason="pip install '.[dev]' brings it")
    where = ROOT / "build" / tmp_path_factory.mktemp("site").name
    try:
        html = make_site.build(where)
        pages = {path.resolve(): Page(path.read_text(encoding="utf-8")) for path in html.rglob("*.html")}
        files = {path.resolve() for path in html.rglob("*") if path.is_file()}
    finally:
        make_site.shutil.rmtree(where, ignore_errors=True)
    return {**{path: Page("") for path in files}, **pages}


def test_no_link_and_no_anchor_leads_nowhere(site: dict[Path, Page]) -> None:
    assert sum(path.suffix == ".html" for path in site) > 50
    followed = 0
    for path, page in site.items():
        for link in (*page.links, *page.loaded):
            target, _, anchor = link.partition("#")
            if EXTERNAL.match(link) or path.name == "404.html":
                continue
            place = (path.parent / unquote(target.partition("?")[0])).resolve() if target else path
            place = place / "index.html" if place not in site and place / "index.html" in site else place
            assert place in site, f"{path.name} leads to {link}"
            assert not anchor or unquote(anchor) in site[place].anchors, f"{path.name} leads to {link}"
            followed += 1
    assert followed > 5000


def test_no_page_loads_anything_from_the_web(site: dict[Path, Page]) -> None:
    assert not [one for page in site.values() for one in page.loaded if EXTERNAL.match(one)]


def test_the_reference_has_everything_public(site: dict[Path, Page]) -> None:
    there = {anchor for path, page in site.items() if path.parent.name == "api" for anchor in page.anchors}
    door = {f"{place}.{name}" for name, place in memory_defense._PLACES.items() if name in memory_defense.__all__}
    attacks = {f"{one.__module__}.{one.__name__}" for one in ATTACKS.values()}
    assert len(door) >= 7
    assert len(attacks) >= 15
    assert door | attacks <= there
    assert "memory_defense.contracts.Defense.surrogates" in there


def test_every_page_is_in_the_navigation(make_site: ModuleType, tmp_path: Path) -> None:
    make_site.gather(tmp_path)
    pages = {one.relative_to(tmp_path).as_posix() for one in tmp_path.rglob("*.md")}
    chosen = set(re.findall(r"[\w/.-]+\.md$", (ROOT / make_site.CONFIGURATION).read_text(encoding="utf-8"), re.M))
    assert chosen <= pages
    aside = {one for one in pages - chosen if one.startswith((f"{make_site.OTHERS}/", "results/"))}
    assert pages - chosen == aside, "add it to the navigation of docs/site/mkdocs.yml"


def test_a_link_to_a_file_of_the_repository_takes_it_along(make_site: ModuleType, tmp_path: Path) -> None:
    root, folder = tmp_path / "repository", tmp_path / "pages"
    (root / "docs").mkdir(parents=True)
    (root / "src" / "deep").mkdir(parents=True)
    (root / "src" / "a.py").write_text("x = 1\n", encoding="utf-8")
    (root / "src" / "deep" / "b.json").write_text("{}", encoding="utf-8")
    (root / "README.md").write_text("[there](docs/page.md#part)", encoding="utf-8")
    text = "[code](../src/a.py) [folder](../src) [home](../README.md) [web](https://a.b)\n```sh\n[no](link)\n```\n"
    (root / "docs" / "page.md").write_text(text, encoding="utf-8")
    pages = make_site.Gathered(root, folder)
    pages.add("docs/page.md")
    said = (folder / "page.md").read_text(encoding="utf-8")
    assert said == (
        "[code](repository/src/a.py.md) [folder](repository/src/index.md) [home](overview.md) "
        "[web](https://a.b)\n```sh\n[no](link)\n```\n"
    )
    assert "x = 1" in (folder / "repository/src/a.py.md").read_text(encoding="utf-8")
    assert (folder / "repository/src/deep/b.json").read_text(encoding="utf-8") == "{}"
    assert "](deep/b.json)" in (folder / "repository/src/index.md").read_text(encoding="utf-8")
    assert (folder / "overview.md").read_text(encoding="utf-8") == "[there](page.md#part)"
    (root / "docs" / "page.md").write_text("[gone](../src/c.py)", encoding="utf-8")
    with pytest.raises(ValueError, match=r"src/c\.py is linked to"):
        make_site.Gathered(root, folder).add("docs/page.md")
