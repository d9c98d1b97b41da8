"""Situations that users of robustness toolkits reported, asked of every toolkit that is installed.

Every question runs in a process and a folder of its own. The verdicts follow by rule from what happened
(`cases/observe.py`); only "no such feature" is stated, with its reason. Writes ``docs/results/cases.json``, from
which ``make docs`` fills the tables of ``docs/peers-on-cases.md``; ten minutes on one core.

    python benchmarks/compare_cases.py
    python benchmarks/compare_cases.py --toolkits memory_defense    # only these; the rest of the file is kept
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import signal
import tempfile
import time
import traceback
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from cases import files, folders, foreign, silence, suites, values
from cases.case import Case
from cases.observe import worst
from cases.toolkits import PACKAGES
from cases.toy import trained
from memory_defense.machine import processor
from report import revision

OUT = Path(__file__).parents[1] / "docs" / "results" / "cases.json"
CASES: tuple[Case, ...] = (
    *files.CASES,
    *suites.CASES,
    *values.CASES,
    *folders.CASES,
    *foreign.CASES,
    *silence.CASES,
)
MODULES = ("foolbox", "torchattacks", "art.attacks.evasion", "pyautoattack", "memory_defense.cli.app")
"""Imported once, before the processes part."""
LIMIT = 240
"""Seconds that one toolkit may take for one case."""


def asked(case: Case, toolkit: str) -> dict[str, Any]:
    """Return what came of a case with one toolkit, in a forked process with a folder of its own."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        child = os.fork()
        if child == 0:
            _child(case, toolkit, Path(folder), answer)
        try:
            _wait(child, start + LIMIT)
            text = answer.read_text(encoding="utf-8") if answer.exists() else ""
        finally:
            for one in (os.killpg, os.kill):  # what the child has started, then the child
                try:
                    one(child, signal.SIGKILL)
                except ProcessLookupError:
                    continue
    found = json.loads(text) if text else {"fault": f"no answer in {LIMIT} s"}
    if "fault" in found:
        print(f"{case.name}, {toolkit}: the question itself failed\n{found['fault']}")
        return found
    print(f"{case.name}, {toolkit}, {time.monotonic() - start:.0f} s: {found['verdict']}")
    for one in found["forms"]:
        print(f"    {_worded(one['form'], one['observed'])} [{one['verdict']}]")
    return found


def _wait(child: int, until: float) -> None:
    while time.monotonic() < until:
        if os.waitpid(child, os.WNOHANG)[0]:
            return
        time.sleep(0.05)


def _child(case: Case, toolkit: str, folder: Path, answer: Path) -> None:
    """Ask, write the answer, and end without the parent's clean-up."""
    os.setpgid(0, 0)
    work = folder / "work"
    work.mkdir()
    os.chdir(work)
    warnings.simplefilter("always")
    torch.set_num_threads(1)
    try:
        forms = case.ask(toolkit)
        counts = worst(forms)
        found = {"verdict": counts.verdict, "observed": _worded(counts.form, counts.observed)}
        found["forms"] = [asdict(one) for one in forms]
    except BaseException:
        found = {"fault": traceback.format_exc()}
    answer.with_suffix(".part").write_text(json.dumps(found), encoding="utf-8")
    answer.with_suffix(".part").rename(answer)
    os._exit(0)


def _worded(form: str, observed: str) -> str:
    return f"{form}: {observed}" if form else observed


def installed(toolkits: list[str]) -> dict[str, str]:
    """Return the versions of the toolkits that are here, by name."""
    found: dict[str, str] = {}
    for toolkit in toolkits:
        try:
            found[toolkit] = metadata.version(PACKAGES[toolkit])
        except metadata.PackageNotFoundError:
            print(f"{toolkit} is not installed and has no column")
    return found


def kept_answers(place: Path, document: dict[str, Any]) -> dict[str, Any]:
    """Return the answers of an earlier file by case and toolkit, and add its versions to the document.

    Raises
    ------
    SystemExit
        Where the file is of other versions or of another processor; they cannot stand side by side.
    """
    if not place.is_file():
        return {}
    earlier = json.loads(place.read_text(encoding="utf-8"))
    same = all(earlier[key] == document[key] for key in ("device", "python", "torch"))
    versions = {**earlier["versions"], **document["versions"]}
    if not same or any(versions[one] != version for one, version in earlier["versions"].items()):
        raise SystemExit(f"{place.name} was made with other versions or on another processor: ask all of it again")
    document["versions"] = {one: versions[one] for one in PACKAGES if one in versions}
    return {case["name"]: case["toolkits"] for case in earlier["cases"]}


def main() -> None:
    """Ask everything and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [case.name for case in CASES]
    parser.add_argument(
        "--cases", nargs="+", choices=names, default=names, help="ask only these, and keep the rest"
    )
    parser.add_argument("--toolkits", nargs="+", choices=PACKAGES, default=list(PACKAGES), help="likewise")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    os.environ["COLUMNS"] = "200"
    torch.set_num_threads(1)
    versions = installed(options.toolkits)
    document = {
        "versions": versions,
        "git": revision(),
        "device": processor(),
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    partly = options.cases != names or options.toolkits != list(PACKAGES)
    kept = kept_answers(options.out, document) if partly else {}
    for module in MODULES:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError:
            continue
    trained(), trained(12, steps=250)  # once, for all
    results: list[dict[str, Any]] = []
    for case in CASES:
        texts = {key: getattr(case, key) for key in ("name", "kind", "situation", "oracle", "helps")}
        answers = dict(kept.get(case.name, {}))
        together = len(versions) if case in silence.CASES else 1  # those sleep, so that all can be watched at once
        with ThreadPoolExecutor(together) as pool:
            if case.name in options.cases:
                found = pool.map(lambda one, case=case: asked(case, one), versions)
                answers.update(zip(versions, found, strict=True))
        if answers:
            results.append({**texts, "toolkits": {one: answers[one] for one in PACKAGES if one in answers}})
    if any("fault" in answer for one in results for answer in one["toolkits"].values()):
        raise SystemExit("nothing is written: some questions failed")
    document["cases"] = results
    options.out.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
