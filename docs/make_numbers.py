"""Fills the numbers of README.md and some pages: ``make docs``, which calls this script.

A place to fill is ``<!-- fill NAME -->...<!-- end fill -->``. Names are ``headline``, ``why`` (the demo's),
``TABLE/DATASET/ROW`` (a row of a table of the paper), ``figure/NAME``, ``anatomy``, ``certificates``,
``cases/table``, ``cases/counts``, ``cases/observed`` and ``cases/versions`` (from what
``benchmarks/compare_cases.py`` wrote), and ``broken/table``, ``broken/defenses``, ``broken/attacks``,
``broken/open`` and ``broken/settings`` (from what ``benchmarks/broken_defenses.py`` wrote).
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from memory_defense.evaluation.record import Accuracy, Record
from memory_defense.files import write_text
from memory_defense.paper.printed.published import PUBLISHED, PublishedTable
from memory_defense.paper.printed.reproduced import LINES, reproduced
from memory_defense.reporting import Section, why_protocols_differ
from memory_defense.reporting.text import table_markdown
from memory_defense.reporting.wording import ball_text, epsilon_text
from memory_defense.reporting.words import first_table
from memory_defense.workflows.demo import TITLES as DEMO_TITLES

DOCS = Path(__file__).parent
PAGES = (
    DOCS.parent / "README.md",
    DOCS / "paper-map.md",
    DOCS / "peers-on-cases.md",
    DOCS / "certificates.md",
    DOCS / "broken-defenses.md",
)
SCALES = {
    "paper": "at the paper's size",
    "rental": "with ResNet-50 after minutes of one GPU",
    "desk": "after hours of two processor cores",
    "cpu": "on two processor cores",
}
"""Directories below results/, the most telling first."""
MISSING = "not measured yet"
VERDICTS = (
    "right",
    "refused, message helps",
    "wrong, and says so",
    "refused, traceback",
    "refused, wrong advice",
    "says nothing for long",
    "silently wrong",
    "no such feature",
)
"""On a case, from the best to the worst, as in benchmarks/cases/observe.py."""
PLACE = re.compile(r"(<!-- fill ([^ ]+) -->)(.*?)(<!-- end fill -->)", re.DOTALL)


def filled(text: str, results: Path = DOCS / "results") -> str:
    """Return a page's text with every place filled; raise ValueError for a name that means nothing."""
    return PLACE.sub(lambda found: f"{found[1]}{_number(found[2], results)}{found[4]}", text)


def _number(name: str, results: Path) -> str:
    if name in ("headline", "why"):
        return f"\n{_demo(name, results / 'demo')}\n"
    if name == "anatomy":
        return _anatomy(results)
    if name == "certificates":
        return f"\n{_certificates(results / 'certificates')}"
    kind, _, what = name.partition("/")
    if kind in KINDS:
        return KINDS[kind](what, results)
    return _row(*name.split("/"), results=results)


def _demo(name: str, demo: Path) -> str:
    if name == "why":
        return why_protocols_differ(Record.read(demo / "paper.json"))
    sections = [Section(title, Record.read(demo / f"{one}.json")) for one, title in DEMO_TITLES.items()]
    return table_markdown(first_table(sections))


def _certificates(place: Path) -> str:
    """Return what is proven by the records of a folder: a row for each radius of each."""
    lines = [
        "| recipe | clean | radius | certified | right or flagged with the gate | clean images accepted | images "
        "| sigma, copies | seconds an image |",
        "|---|---:|---|---:|---:|---:|---:|---|---:|",
    ]
    for path in sorted(place.glob("*.json")):
        record = Record.read(path)
        for number, one in enumerate(record.certified):
            assert one.gate is not None, f"{path}: a radius of 0 has no gate"
            shares = (one, one.gate.right_or_flagged, one.gate.clean_accepted)
            proven = " | ".join(f"{100 * share.accuracy:.1f} {_interval(share)}" for share in shares)
            first = f"[{path.stem}](results/certificates/{path.name}) | {100 * record.clean.accuracy:.1f}"
            where, seconds = ball_text(one.norm, one.epsilon), one.seconds / one.images
            copies = "" if one.n is None else f"{one.sigma:g}, {one.n:,}" + (" at most" if one.looks > 1 else "")
            cells = (" | " if number else first, where, proven, f"{one.images:,}", copies, f"{seconds:.2g}")
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _interval(share: Accuracy) -> str:
    low, high = (100 * end for end in share.ci95)
    return f"[{low:.1f}, {high:.1f}]"


def _row(what: str, dataset: str, row: str, *, results: Path) -> str:
    """Return what was published of a row and what every scale that has a record measured, in percent."""
    (table,) = (one for one in PUBLISHED[what] if one.dataset == dataset)
    said: list[str] = []
    for scale, where in SCALES.items():
        place = results / scale / what / dataset / f"{row}.json"
        if place.is_file():
            said.append(f"ours {where} {_measured(table, row, place, results)}")
    return "; ".join([_published(table, row), *(said or [f"ours {MISSING}"])]) + "."


def _column(table: PublishedTable, row: str) -> int:
    """Return the number of the last column of L-inf attacks that the paper has a number for."""
    linf = [column.norm == "linf" for column, _ in table.cells]
    (scores,) = [[one for group in found.scores for one in group] for found in table.rows if found.key == row] or [
        linf
    ]
    return max(cell for cell, score in enumerate(scores) if linf[cell] and score is not None)


def _published(table: PublishedTable, row: str) -> str:
    found = [one for one in table.rows if one.key == row]
    if not found:
        return f"{table.title}: not in the paper"
    scores = [one for group in found[0].scores for one in group]
    attacked = f"{scores[_column(table, row)]:g} % under {_head(table, row)}"
    return f"{table.title}: published {scores[0]:g} % clean, {attacked}"


def _head(table: PublishedTable, row: str) -> str:
    column, cell = table.cells[_column(table, row)]
    return f"{column.title} at {epsilon_text(column.radii[cell])}"


def _measured(table: PublishedTable, row: str, place: Path, results: Path) -> str:
    record = Record.read(place)
    (system,) = reproduced(table, [(row, record, str(place))], scale="").systems
    at = _column(table, row)
    of_line = {line: system.lines[line][at].text for line in LINES[1:]}
    numbers = ", ".join(f"{line} {text} %" for line, text in of_line.items())
    clean = system.lines["its protocol"][0].text
    link = f"results/{place.relative_to(results).as_posix()}"
    return f"[{clean} % clean, under {_head(table, row)}: {numbers}]({link})"


def _figure(name: str, results: Path) -> str:
    """Return a link to what a figure's reproduction wrote."""
    for place in (results / name, *(results / scale / name for scale in SCALES)):
        page = place / f"{name}.md"
        if page.is_file():
            return f"[measured](results/{page.relative_to(results).as_posix()})"
    return MISSING


def _anatomy(results: Path) -> str:
    """Return what the cell of Table 1 at 25/255 becomes, from the released scoring to the worst case."""
    place = results / "anatomy" / "anatomy.json"
    if not place.is_file():
        return MISSING
    steps: list[dict[str, Any]] = json.loads(place.read_text(encoding="utf-8"))["steps"]
    first, last = steps[0], steps[-1]
    printed, attacked, left = (
        100 * one for one in (first["score"], *(s["attacked"]["accuracy"] for s in (first, last)))
    )
    return (
        f"scored as the released code scores it, {printed:.1f} % are right; of the attacked images alone, "
        f"{attacked:.1f} %; under every attack with every knowledge, {left:.1f} %"
    )


def _cases(what: str, results: Path) -> str:
    """Return a part of what every toolkit made of every case."""
    place = results / "cases.json"
    if not place.is_file():
        return MISSING
    document: dict[str, Any] = json.loads(place.read_text(encoding="utf-8"))
    parts = {
        "table": _cases_table,
        "counts": _cases_counts,
        "observed": _cases_observed,
        "versions": _cases_versions,
    }
    return parts[what](document)


def _cases_table(document: dict[str, Any]) -> str:
    toolkits = list(document["versions"])
    lines = [f"| case | {' | '.join(toolkits)} |", "|---" * (len(toolkits) + 1) + "|"]
    for case in document["cases"]:
        cells = (_case_cell(case["toolkits"][one]) for one in toolkits)
        lines.append(f"| [{case['name']}](#{case['name']}) | {' | '.join(cells)} |")
    return "\n\n" + "\n".join(lines) + "\n\n"


def _cases_counts(document: dict[str, Any]) -> str:
    """Return how often each toolkit got each verdict."""
    lines = [f"| toolkit | {' | '.join(VERDICTS)} |", "|---" * (len(VERDICTS) + 1) + "|"]
    for toolkit in document["versions"]:
        got = [case["toolkits"][toolkit]["verdict"] for case in document["cases"]]
        lines.append(f"| {toolkit} | {' | '.join(str(got.count(one)) for one in VERDICTS)} |")
    return "\n\n" + "\n".join(lines) + "\n\n"


def _case_cell(answer: dict[str, Any]) -> str:
    """Return the verdict, with how many ways of asking were right where that is not all or none of them."""
    right = sum(form["verdict"] == "right" for form in answer["forms"])
    some = f" ({right} of {len(answer['forms'])} right)" if 0 < right < len(answer["forms"]) else ""
    return f"{answer['verdict']}{some}"


def _cases_observed(document: dict[str, Any]) -> str:
    lines: list[str] = []
    for case in document["cases"]:
        lines += [f"### {case['name']}", "", case["situation"], "", f"Right: {case['oracle']}", ""]
        if case["helps"]:
            lines += [f"A message helps if it matches `{case['helps']}`.", ""]
        lines += ["| toolkit | asked | verdict | observed |", "|---|---|---|---|"]
        for toolkit, answer in case["toolkits"].items():
            for form in answer["forms"]:
                cells = (toolkit, form["form"], form["verdict"], _verbatim(form["observed"]))
                lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return "\n\n" + "\n".join(lines)


def _broken(what: str, results: Path) -> str:
    """Return a part of what is known of broken defenses."""
    place = results / "broken-defenses.json"
    if not place.is_file():
        return MISSING
    document: dict[str, Any] = json.loads(place.read_text(encoding="utf-8"))
    parts = {
        "table": _broken_table,
        "defenses": _broken_defenses,
        "attacks": _broken_attacks,
        "open": _broken_open,
        "settings": _broken_settings,
    }
    return parts[what](document)


def _broken_table(document: dict[str, Any]) -> str:
    """Return the shares that are claimed, found by the evaluator and true, and what was found."""
    lines = [
        "| defense | clean | claimed | ours | by hand | what broke most | checks that fail |",
        "|---|---:|---:|---:|---:|---|---|",
    ]
    for row in document["rows"].values():
        ours = row["ours"]
        shares = (f"{100 * row[one]['accuracy']:.0f}" for one in ("clean", "claimed", "ours", "truth"))
        most = sorted(ours["found_by"].items(), key=lambda one: -one[1])[:2]
        found = ", ".join(f"{name.removesuffix(', end-to-end')} ({count})" for name, count in most)
        lines.append(f"| {row['title']} | {' | '.join(shares)} | {found} | {'; '.join(ours['failed']) or 'none'} |")
    return "\n\n" + "\n".join(lines) + "\n\n"


def _broken_defenses(document: dict[str, Any]) -> str:
    """Return who proposed what, how it was judged there, and who broke it."""
    lines = ["| defense | proposed by | evaluated with | why that misleads | broken by |", "|---" * 5 + "|"]
    for row in document["rows"].values():
        cells = (row[one] for one in ("title", "defense", "weak", "why", "broken_by"))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n\n" + "\n".join(lines) + "\n\n"


def _broken_attacks(document: dict[str, Any]) -> str:
    """Return what each attack written by hand leaves."""
    lines = ["| defense | accuracy under each attack written for it, % |", "|---|---|"]
    for row in document["rows"].values():
        left = "; ".join(f"{name}: {100 * one['accuracy']:.0f}" for name, one in row["by_hand"].items())
        lines.append(f"| {row['title']} | {left} |")
    return "\n\n" + "\n".join(lines) + "\n\n"


def _broken_open(document: dict[str, Any]) -> str:
    """Return the defenses that read too high and fail no check."""
    fooled: list[str] = []
    for row in document["rows"].values():
        said, true = (100 * row[one]["accuracy"] for one in ("ours", "truth"))
        if said > true + 5 and not row["ours"]["failed"]:
            fooled.append(f"{row['title']} ({said:.0f} % where {true:.0f} % stand by hand)")
    return ", ".join(fooled) or "none"


def _broken_settings(document: dict[str, Any]) -> str:
    return (
        f"the first {document['images']} test images of {document['dataset']}, L-inf {document['epsilon']:g}, "
        f"torch {document['torch']}, on {document['device']}, in {document['minutes']['processor']:.0f} minutes of "
        "one core, some nets kept from before"
    )


def _verbatim(text: str) -> str:
    """Return a text that stands in a table as it is."""
    for sign in ("\\", "|", "<", "[", "*", "_", "`"):
        text = text.replace(sign, f"\\{sign}")
    return text


def _cases_versions(document: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in document["versions"].items())
    return (
        f"{versions}, torch {document['torch']}, Python {document['python']}, on {document['threads']} thread of "
        f"{document['device']}"
    )


KINDS = {"cases": _cases, "figure": _figure, "broken": _broken}
"""What fills a place of several parts, by what its name begins with."""


def main() -> None:
    """Fill every page."""
    for page in PAGES:
        write_text(page, filled(page.read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
