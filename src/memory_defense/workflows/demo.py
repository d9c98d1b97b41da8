"""The demo: both faces of Memory Defense on real Fashion-MNIST, on two processor cores."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from memory_defense.contracts import Progress
from memory_defense.data.images import Splits
from memory_defense.defenses.interval_proof import proving
from memory_defense.evaluation.options import Options
from memory_defense.recipes.certified import DEMO_PROVEN, FASHION_LINF_TINY
from memory_defense.recipes.fashion_mnist import DEMO, DEMO_PAPER, TINY
from memory_defense.recipes.recipe import Recipe
from memory_defense.run_directory import RunDirectory
from memory_defense.systems.load import load_defense
from memory_defense.workflows.assess import assess
from memory_defense.workflows.certify import certify, options_for
from memory_defense.workflows.train import train

SCALES: dict[str, tuple[Recipe, Recipe]] = {
    "cpu": (DEMO_PAPER, DEMO),
    "tiny": (replace(TINY, name="fashion-mnist/tiny-paper"), TINY),
}
"""Recipes of the paper's system and of the sound one: cpu is the demo, tiny runs the same code in seconds and its
numbers mean nothing."""


PROVEN: dict[str, Recipe] = {"cpu": DEMO_PROVEN, "tiny": FASHION_LINF_TINY}
"""Recipes of the classifier whose answers are proven."""

TITLES = {
    "paper": "Paper's system, benign selector",
    "sound": "Sound Memory Defense, adversarially trained selector",
    "proven": "Classifier trained by interval bounds",
}
"""What reports call what the demo made."""

PROVEN_RADII = (9 / 255, 0.1)
"""The L-inf radii that the sound system is attacked at."""


@dataclass(frozen=True)
class DemoRuns:
    """What the demo trained."""

    paper: RunDirectory
    sound: RunDirectory
    proven: RunDirectory

    @property
    def certificates(self) -> Path:
        """The record of what is proven."""
        return self.proven.path / "certificates.json"


def demo(
    out: Path, splits: Splits, *, scale: str = "cpu", seed: int = 0, progress: Progress | None = None
) -> DemoRuns:
    """Train and evaluate the paper's system and the sound one, and prove what a third classifier withstands.

    The sound run lives in `out` itself, the others in ``out/paper`` and ``out/proven``. A demo that was stopped
    goes on where it was; one that is finished is only evaluated again.
    """
    runs: list[RunDirectory] = []
    for recipe, directory in zip(SCALES[scale], (out / "paper", out), strict=True):
        undefended = runs[0].path if runs else None
        run = train(
            recipe, directory, splits, seed=seed, resume=True, undefended_from=undefended, progress=progress
        )
        defense = load_defense(run.path).to(splits.test.images.device)
        if progress:
            progress.note(f"{recipe.name}: attacks")
        assess(recipe, run, defense, splits, options=Options(seed=seed, progress=progress))
        runs.append(run)
    recipe = PROVEN[scale]
    run = train(recipe, out / "proven", splits, seed=seed, resume=True, progress=progress)
    done = DemoRuns(paper=runs[0], sound=runs[1], proven=run)
    _certify(done, splits, recipe, seed, progress)
    return done


def _certify(done: DemoRuns, splits: Splits, recipe: Recipe, seed: int, progress: Progress | None) -> None:
    """Write the record of what is proven."""
    device = splits.test.images.device
    test = splits.test.first(min(recipe.evaluation.images, len(splits.test)))
    certify(
        proving(load_defense(done.proven.path).to(device), radii=PROVEN_RADII),
        test.floats(),
        test.labels,
        radii=PROVEN_RADII,
        out=done.certificates,
        options=options_for(recipe, splits, test, seed=seed, progress=progress),
    )
