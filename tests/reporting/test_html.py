from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from typing import Any
from xml.etree import ElementTree

import pytest

from memory_defense.evaluation.record import AuditLine, Record
from memory_defense.reporting import Section
from memory_defense.reporting.gallery import OPTIONAL
from reporting.pages import Page, report


@pytest.fixture(scope="module")
def full(tmp_path_factory, shared_record, save_gallery) -> str:
    place = tmp_path_factory.mktemp("full")
    gallery = save_gallery(place / "gallery.safetensors")
    one = Section("One", shared_record, "First.\n\nSecond.", gallery, place / "runs" / "a b" / "record.json")
    return report(place, one, Section("Two", shared_record), introduction="Two faces.")


def test_the_page_is_well_formed_and_its_ids_are_unique(full):
    page = Page(full)
    ids = page.all("id")
    assert len(ids) == len(set(ids))
    for name in [name for label in page.all("aria-labelledby") for name in label.split()]:
        assert name in ids
    for link in page.all("href"):
        if link.startswith("#"):
            assert link[1:] in ids


def resolved(record: Record, pointer: str) -> Any:
    """What a JSON pointer points at, found without the code under test."""
    value = json.loads(record.model_dump_json(by_alias=True))
    for part in pointer.strip("/").split("/"):
        value = value[int(part)] if isinstance(value, list) else value[part]
    return value


def test_every_number_links_to_its_entry_in_the_record(full, record):
    page = Page(full)
    links = [attrs for tag, attrs in page.tags if tag == "a" and "data-record" in attrs]
    assert {link["href"].split("-")[1] for link in links} == {"1", "2"}
    for link in links:
        resolved(record, link["data-record"])
        entry = link["data-record"].strip("/").split("/")
        assert link["href"] == "#" + "-".join(("record", link["href"].split("-")[1], *entry[: len(entry) - 1])) or (
            link["href"].endswith("-" + entry[0])
        )
    pointed = {link["data-record"] for link in links}
    for kind, count in (("attacks", len(record.attacks)), ("worst_case", len(record.worst_case))):
        assert {f"/{kind}/{place}/accuracy" for place in range(count)} <= pointed
    assert {"/clean/accuracy", "/images", "/audit/0/value", "/provenance/seed"} <= pointed


def test_linked_accuracies_say_what_their_entry_says(full, record):
    found = re.findall(r'data-record="([^"]+/accuracy)">([^<]+)</a>', full)
    assert len(found) > 20
    for pointer, text in found:
        assert f"{100 * resolved(record, pointer):.1f}" == text


def test_numbers_in_tables_are_all_linked(full):
    """A numeric cell is a link, or holds nothing, or says that there is nothing."""
    bare = re.findall(r'<td class="number"[^>]*>(?!(?:<strong>)?<a )([^<]*)', full)
    assert len(re.findall(r'<td class="number"', full)) > len(bare) > 10
    assert {text.strip() for text in bare} <= {"", "–"}


def test_the_record_is_on_the_page_word_for_word(full, record):
    printed = re.search(r'<details class="record" id="record-1">.*?<pre[^>]*>(.*?)</pre>', full, re.S)
    assert printed is not None
    text = html.unescape(re.sub(r"<[^>]+>", "", printed[1]))
    assert Record.model_validate_json(text) == record


def test_the_page_needs_nothing_else(full):
    assert set(re.findall(r"https?://[^\"'\s<]+", full)) <= {"http://www.w3.org/2000/svg"}
    page = Page(full)
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"link", "iframe", "object", "embed", "base", "form", "video", "audio"}
    assert all(source.startswith("data:image/png;base64,") for source in page.all("src"))
    assert not re.search(r"@import|url\((?!#)", full)
    policy = next(a["content"] for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert "default-src 'none'" in policy
    digest = base64.b64encode(hashlib.sha256(page.script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)


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
    marks = (
        'id="summary"',
        'class="bars"',
        "Most effective",
        "<table",
        "Two faces.",
        'class="answer"',
        "<svg",
        'class="examples"',
    )
    places = [full.index(mark) for mark in marks]
    assert places == sorted(places)
    assert full.index('id="reading"') > full.rindex('class="scroll provenance"') > full.index('class="check fail"')


def test_verdicts_are_words_and_symbols(full):
    text = re.sub(r"\s+", " ", Page(full).text)
    for words in (
        "✗ fail The answer is the class of the chosen memory slot, whatever the image shows",
        "✓ pass gradients",
        "– not run square",
        "✓ right",
        "✗ wrong",
        "chosen: both times",
    ):
        assert words in text
    assert "Every check: 1 failed, 1 passed, 1 not run" in text


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
    assert text.lower().count("<script") == 1
    page = Page(text)
    assert "alert" not in page.script
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


def test_every_table_can_be_copied_as_latex(full):
    page = Page(full)
    tables = [tag for tag, _ in page.tags].count("table")
    buttons = [attrs for tag, attrs in page.tags if tag == "button" and attrs["class"] == "copy"]
    sources = re.findall(r'<pre tabindex="0">(\\begin\{table\}.*?)</pre>', full, re.S)
    assert tables == len(buttons) == len(sources) > 5
    assert all(attrs["type"] == "button" and "hidden" in attrs for attrs in buttons)


def test_figures_are_files_too(full):
    files = [attrs for tag, attrs in Page(full).tags if "download" in attrs]
    assert len(files) == 2
    for attrs in files:
        assert attrs["download"].endswith(".svg")
        svg = base64.b64decode(attrs["href"].removeprefix("data:image/svg+xml;base64,"))
        root = ElementTree.fromstring(svg)
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert b"var(" not in svg


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
