"""The tables of the paper as printed there, and how each of their numbers came about.

Numbers are percentages of images answered right, copied as printed; None is the paper's "NA". Nothing here is
ours: what we measure comes from records.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from memory_defense.reporting.wording import epsilon_text

Score = float | None


@dataclass(frozen=True, kw_only=True)
class AttackColumn:
    """One group of cells: an attack, and the radii or settings it was run with."""

    attack: str
    """Name in records, or ``clean``."""
    norm: Literal["", "linf", "l2"] = ""
    radii: tuple[float, ...] = ()
    """Pixel units of [0, 1]; the cells of the group, in the paper's order."""
    settings: tuple[str, ...] = ()
    """Instead of radii: names of attacks in records, one for each cell, of attacks that no radius bounds."""

    @property
    def title(self) -> str:
        """Heading of the group."""
        return self.attack.upper() if self.attack != "clean" else "Clean"

    @property
    def cells(self) -> int:
        """Number of cells in the group."""
        return max(len(self.radii), len(self.settings), 1)

    def head(self, cell: int) -> str:
        """Return the heading of one cell: attack and radius, or attack and setting."""
        if self.radii:
            return f"{self.title} {epsilon_text(self.radii[cell])}"
        if self.settings:
            return "CW" if self.settings[cell] == "cw" else "CW, confidence 50"
        return self.title


@dataclass(frozen=True, kw_only=True)
class PublishedRow:
    """One system of a table."""

    key: str
    """Name of the row in `names.TABLES`."""
    title: str
    """The paper's name, spelled out."""
    knowledge: str
    """Name of the surrogate that the published attack differentiated."""
    scores: tuple[tuple[Score, ...], ...]
    """A group for each column."""
    source: str
    """Origin of the paper's numbers."""


@dataclass(frozen=True, kw_only=True)
class PublishedTable:
    """One table of the paper, for one dataset."""

    number: int
    dataset: str
    columns: tuple[AttackColumn, ...]
    rows: tuple[PublishedRow, ...]

    @property
    def title(self) -> str:
        """Heading of the table."""
        return f"Table {self.number}, {self.dataset}"

    @property
    def cells(self) -> tuple[tuple[AttackColumn, int], ...]:
        """Every cell as its column and the place in it."""
        return tuple((column, cell) for column in self.columns for cell in range(column.cells))


_OWN = "measured by the paper's authors"
_COPIED = "copied in the paper from the system's own paper, where the attack saw the classifier alone"
_BEST = f"{_COPIED} and the best of four taken"
_SYSTEMS = {
    "resnet-benign": ("ResNet-50, benign", "end-to-end", _OWN),
    "pixeldefend": ("PixelDefend", "oblivious", _COPIED),
    "comdefend": ("ComDefend", "oblivious", _COPIED),
    "resnet-offline": ("ResNet-50, PGD images made once", "end-to-end", _OWN),
    "memory-defense": ("Memory Defense", "fixed-slots", _OWN),
    "defense-vae-rec": ("Defense-VAE, reconstruction", "oblivious", _BEST),
    "defense-vae-e2e": ("Defense-VAE, end to end", "oblivious", _BEST),
    "target-classifier": ("Target classifier alone", "end-to-end", _OWN),
    "autoencoder": ("Autoencoder without memory", "end-to-end", _OWN),
}
"""Title, knowledge of the published attack, and source of the numbers."""

_CLEAN = AttackColumn(attack="clean")
_CW = AttackColumn(attack="cw", norm="l2", settings=("cw", "cw-confident"))


def _linf(attack: str, *levels: int) -> AttackColumn:
    return AttackColumn(attack=attack, norm="linf", radii=tuple(level / 255 for level in levels))


def _row(key: str, *scores: tuple[Score, ...], title: str = "") -> PublishedRow:
    known, knowledge, source = _SYSTEMS[key]
    return PublishedRow(key=key, title=title or known, knowledge=knowledge, scores=scores, source=source)


TABLE_1 = PublishedTable(
    number=1,
    dataset="fashion-mnist",
    columns=(_CLEAN, _linf("fgsm", 9, 25), _linf("bim", 9, 25), _linf("pgd", 9, 25), _CW),
    rows=(
        _row("resnet-benign", (93.66,), (62.83, 62.52), (59.88, 56.10), (59.06, 59.08), (48.61, 45.0)),
        _row("pixeldefend", (89.0,), (87.0, 82.0), (85.0, 83.0), (None, None), (88.0, 88.0)),
        _row("comdefend", (93.0,), (89.0, 89.0), (70.0, 60.0), (None, None), (88.0, 89.0)),
        _row("resnet-offline", (92.36,), (89.08, 87.55), (86.09, 78.62), (85.09, 81.04), (77.14, 76.35)),
        _row("memory-defense", (92.36,), (90.02, 90.03), (89.99, 89.99), (89.97, 89.80), (89.34, 88.00)),
    ),
)

TABLE_2 = PublishedTable(
    number=2,
    dataset="cifar10",
    columns=(_CLEAN, _linf("fgsm", 2, 8, 16), _linf("bim", 2, 8, 16), _linf("pgd", 2, 8, 16), _CW),
    rows=(
        _row(
            "resnet-benign",
            (92.78,),
            (73.46, 72.19, 70.40),
            (69.69, 58.50, 51.49),
            (69.60, 57.76, 53.39),
            (47.63, 45.0),
        ),
        _row("pixeldefend", (90.0,), (81.0, 70.0, 67.0), (81.0, 70.0, 56.0), (None, None, None), (81.0, 80.0)),
        _row("comdefend", (91.0,), (86.0, 84.0, 83.0), (78.0, 41.0, 34.0), (None, None, None), (89.0, 87.0)),
        _row(
            "resnet-offline",
            (92.00,),
            (86.32, 84.04, 81.20),
            (83.87, 72.40, 59.73),
            (83.83, 71.74, 63.67),
            (49.72, 48.31),
        ),
        _row(
            "memory-defense",
            (92.01,),
            (86.95, 86.94, 86.93),
            (86.97, 86.97, 86.94),
            (87.00, 86.11, 85.01),
            (89.10, 88.33),
        ),
    ),
)


def _table_3(
    dataset: str, rec: tuple[Score, ...], e2e: tuple[Score, ...], own: tuple[Score, ...]
) -> PublishedTable:
    scores = {"defense-vae-rec": rec, "defense-vae-e2e": e2e, "memory-defense": own}
    return PublishedTable(
        number=3,
        dataset=dataset,
        columns=(
            _CLEAN,
            AttackColumn(attack="fgsm", norm="linf", radii=(0.3,)),
            AttackColumn(attack="cw", norm="l2", settings=("cw",)),
        ),
        rows=tuple(_row(key, *((one,) for one in cells)) for key, cells in scores.items()),
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
        _row("target-classifier", (87.62,), (53.64,)),
        _row("autoencoder", (89.70,), (68.69,)),
        _row("resnet-offline", (92.36,), (87.55,), title="Memory selector, PGD images made once"),
        _row("memory-defense", (92.36,), (90.03,)),
    ),
)

PUBLISHED: dict[str, tuple[PublishedTable, ...]] = {
    "table1": (TABLE_1,),
    "table2": (TABLE_2,),
    "table3": TABLE_3,
    "table5": (TABLE_5,),
}
"""Each table by the name of the command that reproduces it."""
