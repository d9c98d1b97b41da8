"""The tables of the paper as printed there, and how each of their numbers came about.

Numbers are percentages of images answered right, copied as printed; None is the paper's "NA". Nothing here is
ours: what we measure comes from records.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Score = float | None


@dataclass(frozen=True, kw_only=True)
class Column:
    """One group of cells: an attack, and the radii or settings it was run with."""

    attack: str
    """As records call it, or ``clean``."""
    norm: Literal["", "linf", "l2"] = ""
    radii: tuple[float, ...] = ()
    """Pixel units of [0, 1]; the cells of the group, in the paper's order."""
    settings: tuple[str, ...] = ()
    """Instead of radii: names of attacks in records, one for each cell, of attacks that no radius bounds."""

    @property
    def title(self) -> str:
        """What stands above the group."""
        return self.attack.upper() if self.attack != "clean" else "Clean"

    @property
    def cells(self) -> int:
        """How many numbers the group has."""
        return max(len(self.radii), len(self.settings), 1)


@dataclass(frozen=True, kw_only=True)
class PublishedRow:
    """One system of a table."""

    key: str
    """What the reproduction calls it."""
    title: str
    """As in the paper, spelled out."""
    knowledge: str
    """What the published attack differentiated, by the name of the surrogate."""
    scores: tuple[tuple[Score, ...], ...]
    """A group for each column."""
    source: str
    """Where the paper has the numbers from."""


@dataclass(frozen=True, kw_only=True)
class PublishedTable:
    """One table of the paper, for one dataset."""

    number: int
    dataset: str
    columns: tuple[Column, ...]
    rows: tuple[PublishedRow, ...]

    @property
    def title(self) -> str:
        """What stands above the table."""
        return f"Table {self.number}, {self.dataset}"


_OWN = "measured by the paper's authors"
_COPIED = "copied in the paper from the system's own paper, where the attack saw the classifier alone"
_CLEAN = Column(attack="clean")
_CW = Column(attack="cw", norm="l2", settings=("cw", "cw-confident"))


def _linf(attack: str, *levels: int) -> Column:
    return Column(attack=attack, norm="linf", radii=tuple(level / 255 for level in levels))


TABLE_1 = PublishedTable(
    number=1,
    dataset="fashion-mnist",
    columns=(_CLEAN, _linf("fgsm", 9, 25), _linf("bim", 9, 25), _linf("pgd", 9, 25), _CW),
    rows=(
        PublishedRow(
            key="resnet-benign",
            title="ResNet-50, benign",
            knowledge="end-to-end",
            scores=((93.66,), (62.83, 62.52), (59.88, 56.10), (59.06, 59.08), (48.61, 45.0)),
            source=_OWN,
        ),
        PublishedRow(
            key="pixeldefend",
            title="PixelDefend",
            knowledge="oblivious",
            scores=((89.0,), (87.0, 82.0), (85.0, 83.0), (None, None), (88.0, 88.0)),
            source=_COPIED,
        ),
        PublishedRow(
            key="comdefend",
            title="ComDefend",
            knowledge="oblivious",
            scores=((93.0,), (89.0, 89.0), (70.0, 60.0), (None, None), (88.0, 89.0)),
            source=_COPIED,
        ),
        PublishedRow(
            key="resnet-offline",
            title="ResNet-50, PGD images made once",
            knowledge="end-to-end",
            scores=((92.36,), (89.08, 87.55), (86.09, 78.62), (85.09, 81.04), (77.14, 76.35)),
            source=_OWN,
        ),
        PublishedRow(
            key="memory-defense",
            title="Memory Defense",
            knowledge="fixed-slots",
            scores=((92.36,), (90.02, 90.03), (89.99, 89.99), (89.97, 89.80), (89.34, 88.00)),
            source=_OWN,
        ),
    ),
)

TABLE_2 = PublishedTable(
    number=2,
    dataset="cifar10",
    columns=(_CLEAN, _linf("fgsm", 2, 8, 16), _linf("bim", 2, 8, 16), _linf("pgd", 2, 8, 16), _CW),
    rows=(
        PublishedRow(
            key="resnet-benign",
            title="ResNet-50, benign",
            knowledge="end-to-end",
            scores=((92.78,), (73.46, 72.19, 70.40), (69.69, 58.50, 51.49), (69.60, 57.76, 53.39), (47.63, 45.0)),
            source=_OWN,
        ),
        PublishedRow(
            key="pixeldefend",
            title="PixelDefend",
            knowledge="oblivious",
            scores=((90.0,), (81.0, 70.0, 67.0), (81.0, 70.0, 56.0), (None, None, None), (81.0, 80.0)),
            source=_COPIED,
        ),
        PublishedRow(
            key="comdefend",
            title="ComDefend",
            knowledge="oblivious",
            scores=((91.0,), (86.0, 84.0, 83.0), (78.0, 41.0, 34.0), (None, None, None), (89.0, 87.0)),
            source=_COPIED,
        ),
        PublishedRow(
            key="resnet-offline",
            title="ResNet-50, PGD images made once",
            knowledge="end-to-end",
            scores=((92.00,), (86.32, 84.04, 81.20), (83.87, 72.40, 59.73), (83.83, 71.74, 63.67), (49.72, 48.31)),
            source=_OWN,
        ),
        PublishedRow(
            key="memory-defense",
            title="Memory Defense",
            knowledge="fixed-slots",
            scores=((92.01,), (86.95, 86.94, 86.93), (86.97, 86.97, 86.94), (87.00, 86.11, 85.01), (89.10, 88.33)),
            source=_OWN,
        ),
    ),
)

_TABLE_3_COLUMNS = (
    _CLEAN,
    Column(attack="fgsm", norm="linf", radii=(0.3,)),
    Column(attack="cw", norm="l2", settings=("cw",)),
)


def _table_3(dataset: str, *scores: tuple[float, float, float]) -> PublishedTable:
    rows = (
        ("defense-vae-rec", "Defense-VAE, reconstruction", "oblivious", _COPIED + " and the best of four taken"),
        ("defense-vae-e2e", "Defense-VAE, end to end", "oblivious", _COPIED + " and the best of four taken"),
        ("memory-defense", "Memory Defense", "fixed-slots", _OWN),
    )
    return PublishedTable(
        number=3,
        dataset=dataset,
        columns=_TABLE_3_COLUMNS,
        rows=tuple(
            PublishedRow(
                key=key, title=title, knowledge=known, scores=tuple((one,) for one in cells), source=source
            )
            for (key, title, known, source), cells in zip(rows, scores, strict=True)
        ),
    )


TABLE_3 = (
    _table_3("fashion-mnist", (90.85, 89.03, 87.47), (90.85, 91.02, 88.54), (92.36, 89.40, 92.36)),
    _table_3("cifar10", (86.52, 48.52, 45.91), (86.52, 50.72, 49.44), (92.01, 86.64, 91.00)),
)

TABLE_5 = PublishedTable(
    number=5,
    dataset="fashion-mnist",
    columns=(_CLEAN, _linf("fgsm", 25)),
    rows=(
        PublishedRow(
            key="target-classifier",
            title="Target classifier alone",
            knowledge="end-to-end",
            scores=((87.62,), (53.64,)),
            source=_OWN,
        ),
        PublishedRow(
            key="autoencoder",
            title="Autoencoder without memory",
            knowledge="end-to-end",
            scores=((89.70,), (68.69,)),
            source=_OWN,
        ),
        PublishedRow(
            key="resnet-offline",
            title="Memory selector, PGD images made once",
            knowledge="end-to-end",
            scores=((92.36,), (87.55,)),
            source=_OWN,
        ),
        PublishedRow(
            key="memory-defense",
            title="Memory Defense",
            knowledge="fixed-slots",
            scores=((92.36,), (90.03,)),
            source=_OWN,
        ),
    ),
)

PUBLISHED: dict[str, tuple[PublishedTable, ...]] = {
    "table1": (TABLE_1,),
    "table2": (TABLE_2,),
    "table3": TABLE_3,
    "table5": (TABLE_5,),
}
"""Each table by the name of the command that reproduces it."""
