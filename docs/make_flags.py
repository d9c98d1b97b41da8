"""Writes docs/results/flags.md, which flag is worth having: ``python docs/make_flags.py``.

Its rows are the records in docs/results/flags, named as in `ROWS` and made on the same images; `HOW` has every
command. A record that is not there yet is left out, and said to be.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from memory_defense.evaluation.record import Record
from memory_defense.files import write_text
from memory_defense.reporting import Section
from memory_defense.reporting.selection import compared
from memory_defense.reporting.text import table_markdown

PLACE = Path(__file__).parent / "results" / "flags"

ROWS = {
    "rectified": "rectified rejection, trained together",
    "consistent": "consistency, an inner attack within half of the radius",
    "gate": "gate, proven by interval bounds",
    "memory": "fitted threshold, the memory's reconstruction error",
    "none": "no flag, the same memory defense",
}
"""A record's name and its row's title, in the table's order."""

BALL = ("linf", 0.1)

_COSTS = "--rejection-cost 0.1 --rejection-cost 0.3"
_OUT = "--out docs/results/flags"
_MEMORY = "--images 1000 --epsilon 0.1 --attacks brief"

HOW = f"""\
memdef train fashion-mnist/rectified --out runs/rectified
memdef train fashion-mnist/consistent --out runs/consistent
memdef train fashion-mnist/demo-proven --out runs/proven
memdef evaluate runs/rectified {_COSTS} {_OUT}/rectified.json
memdef evaluate runs/consistent {_COSTS} {_OUT}/consistent.json
memdef evaluate runs/proven --epsilon 0.1 --gate 0.1 --attacks brief {_COSTS} {_OUT}/gate.json
memdef evaluate zoo:fashion-mnist/sound {_MEMORY} {_COSTS} {_OUT}/none.json
memdef evaluate zoo:fashion-mnist/sound {_MEMORY} --detection {_COSTS} {_OUT}/memory.json
python docs/make_flags.py
"""

_INTRODUCTION = """\
# Which flag is worth having

Fashion-MNIST, one ball, the same test images for every row. A flag is fitted, learnt or proven; each is attacked by
adversaries that fight it ([certificates](../certificates.md#flags-that-are-trained-or-looked-for)). A gate's
"robust with rejection" is proven: it is what it has right and accepted. That of any other row is what attacks left.
"""


def page(place: Path = PLACE) -> str:
    """Return the page made of the records in a folder.

    Raises
    ------
    ValueError
        For records of different datasets or numbers of images, whose rows say nothing beside each other.
    """
    there = {name: Record.read(place / f"{name}.json") for name in ROWS if (place / f"{name}.json").is_file()}
    kinds = {(one.dataset, one.images) for one in there.values()}
    if len(kinds) > 1:
        raise ValueError(f"the records are of {sorted(kinds)}; make them again with the same --images")
    parts = [_INTRODUCTION]
    if there:
        ((_, images),) = kinds
        parts.append(f"{images:,} test images.\n")
        parts.append(
            table_markdown(compared([Section(ROWS[name], one) for name, one in there.items()], *BALL)) + "\n"
        )
    missing = [title for name, title in ROWS.items() if name not in there]
    if missing:
        parts.append(f"Not measured yet: {'; '.join(missing)}.\n")
    parts.append(f"Made by\n\n```\n{HOW}```\n")
    return "\n".join(parts)


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=Path, default=PLACE, help="folder of the records")
    parser.add_argument("--out", type=Path, default=PLACE.with_suffix(".md"))
    chosen = parser.parse_args()
    write_text(chosen.out, page(chosen.records))


if __name__ == "__main__":
    main()
