"""A page's text, tags and script, and the writing of one: what several tests of the report need."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

from memory_defense.reporting import Section, write_report

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Collects text, ids, labels and resources; complains about tags that do not close."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.script = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.script += data
        elif "style" not in self.open:
            self.text += data

    def all(self, attribute: str) -> list[str]:
        return [attrs[attribute] or "" for _, attrs in self.tags if attribute in attrs]


def report(tmp_path: Path, *sections: Section, **options) -> str:
    path = tmp_path / "out" / "report.html"
    write_report(path, sections, **{"title": "Report", **options})
    return path.read_text(encoding="utf-8")
