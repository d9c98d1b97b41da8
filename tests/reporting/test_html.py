from __future__ import annotations

import html
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from memory_defense.evaluation.record import AuditLine
from memory_defense.reporting import Section, write_report
from memory_defense.reporting.gallery import OPTIONAL

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Collects text, ids, labels and resources; complains about tags that do not close."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
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
        if "style" not in self.open:
            self.text += data

    def all(self, attribute: str) -> list[str]:
        return [attrs[attribute] or "" for _, attrs in self.tags if attribute in attrs]


def report(tmp_path: Path, *sections: Section, **options) -> str:
    path = tmp_path / "out" / "report.html"
    write_report(path, sections, **{"title": "Report", **options})
    return path.read_text(encoding="utf-8")


@pytest.fixture
def full(tmp_path, record, write_gallery) -> str:
    one = Section("One", record, "First.\n\nSecond.", write_gallery(), tmp_path / "runs" / "a b" / "record.json")
    return report(tmp_path, one, Section("Two", record), introduction="Two faces.")


def test_the_page_is_well_formed_and_its_ids_are_unique(full):
    page = Page(full)
    ids = page.all("id")
    assert len(ids) == len(set(ids))
    for name in [name for label in page.all("aria-labelledby") for name in label.split()]:
        assert name in ids
    for link in page.all("href"):
        if link.startswith("#"):
            assert link[1:] in ids


def test_the_page_needs_nothing_else(full):
    assert set(re.findall(r"https?://[^\"'\s<]+", full)) <= {"http://www.w3.org/2000/svg"}
    page = Page(full)
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"script", "link", "iframe", "object", "embed", "base", "form", "video", "audio"}
    assert all(source.startswith("data:image/png;base64,") for source in page.all("src"))
    assert not re.search(r"@import|url\((?!#)", full)
    policy = next(a["content"] for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert "default-src 'none'" in policy


def test_every_number_of_the_record_is_on_the_page(full, record):
    text = Page(full).text
    for entry in (record.clean, *record.attacks, *record.worst_case):
        assert f"{entry.accuracy:.1%}".rstrip("%") in text
        low, high = (f"{bound:.1%}".rstrip("%") for bound in entry.ci95)
        assert f"[{low}, {high}]" in text
    for value in record.provenance.model_dump().values():
        assert str(value) in text


def test_numbers_in_the_tables_are_the_records(full, record):
    """Every number with an interval belongs to some entry of the record: nothing is made up on the way."""
    entries = (record.clean, *record.attacks, *record.worst_case)
    known = {f"{e.accuracy:.1%} [{e.ci95[0]:.1%}, {e.ci95[1]:.1%}]".replace("%", "") for e in entries}
    text = re.sub(r"\s+", " ", Page(full).text).replace(" % [", " [")
    found = set(re.findall(r"\d+\.\d \[\d+\.\d, \d+\.\d\]", text))
    assert len(found) > 10
    assert found <= known


def test_answers_come_before_tables_and_figures(full):
    places = [full.index(mark) for mark in ('class="answer"', "<table", "Two faces.", "<svg", 'class="examples"')]
    assert places == sorted(places)
    assert full.index('id="reading"') > full.rindex('class="provenance"') > full.index('class="check fail"')


def test_verdicts_are_words_and_symbols(full):
    text = re.sub(r"\s+", " ", Page(full).text)
    for words in (
        "✗ fail slot-following",
        "✓ pass gradients",
        "– not run square",
        "✓ right",
        "✗ wrong",
        "chosen: both times",
    ):
        assert words in text
    assert "Audit: 1 failed, 1 passed, 1 not run" in text


def test_names_are_escaped_everywhere(tmp_path, factory, attacked, write_gallery):
    evil = "<script>alert('x')</script>\"&"
    record = factory(
        defense=evil,
        recipe=evil,
        dataset=evil,
        attacks=(attacked(evil, 0.5, name=evil), attacked(evil, 0.4, epsilon=0.1, purpose="curve")),
        audit=(AuditLine(check=evil, verdict="fail", value=None, meaning=evil, remedy=evil),),
    )
    gallery = write_gallery(header={"attack": evil, "knowledge": evil, "classes": f'["{"<script>"}", "b", "c"]'})
    text = report(tmp_path, Section(evil, record, evil, gallery, tmp_path / evil), title=evil, introduction=evil)
    assert "<script" not in text.lower()
    page = Page(text)
    assert not {"script", "alert"} & {tag for tag, _ in page.tags}
    assert page.text.count(evil) >= 8
    assert html.escape(evil, quote=False)[:14] in text


def test_records_are_linked_relatively_and_quoted(full, tmp_path, record):
    assert "../runs/a%20b/record.json" in Page(full).all("href")
    assert str(tmp_path) not in full
    odd = report(tmp_path, Section("s", record, record_path=tmp_path / "out" / 'javascript:x"y'))
    assert "javascript%3Ax%22y" in Page(odd).all("href")


def test_a_bare_record_still_renders(tmp_path, bare):
    page = Page(report(tmp_path, Section("Bare", bare)))
    for words in ("it was not attacked", "there is no figure", "No check was run", "No attack was run"):
        assert words in page.text
    assert "svg" not in {tag for tag, _ in page.tags}


def test_an_evaluation_that_spared_the_selector_carries_a_caution(tmp_path, factory, attacked):
    record = factory(attacks=(attacked("fixed-slots", 0.8),))
    assert "the selector was never attacked" in Page(report(tmp_path, Section("s", record))).text


def test_galleries_can_be_limited_and_plain(tmp_path, record, write_gallery):
    gallery = write_gallery(dict.fromkeys(OPTIONAL), channels=3)
    section = Section("s", record, gallery_path=gallery)
    page = Page(report(tmp_path, section, gallery_limit=1))
    assert "1 more in the file are not shown" in page.text
    assert len(page.all("src")) == 3
    assert all(text for text in page.all("alt"))


def test_the_same_input_gives_the_same_bytes(tmp_path, record, write_gallery):
    section = Section("s", record, gallery_path=write_gallery())
    assert report(tmp_path, section) == report(tmp_path, section)


def test_a_bad_gallery_leaves_the_old_page_alone(tmp_path, record):
    old = report(tmp_path, Section("s", record))
    broken = tmp_path / "gallery.safetensors"
    broken.write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"gallery\.safetensors"):
        report(tmp_path, Section("s", record, gallery_path=broken))
    assert (tmp_path / "out" / "report.html").read_text(encoding="utf-8") == old


def test_wrong_calls_are_refused(tmp_path, record):
    with pytest.raises(ValueError, match="no sections"):
        report(tmp_path)
    with pytest.raises(ValueError, match="gallery_limit is -1"):
        report(tmp_path, Section("s", record), gallery_limit=-1)
