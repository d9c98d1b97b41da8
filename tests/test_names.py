"""The names that are checked without torch are those of the registries, one for one."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

from memory_defense import names
from memory_defense.cli.reproduce import figures
from memory_defense.evaluation.detection import conformal_rank
from memory_defense.model_spec import ImageSpec
from memory_defense.paper.printed.published import PUBLISHED
from memory_defense.paper.queue import QUEUE
from memory_defense.recipes.hardened import HardenOptions, harden_recipe
from memory_defense.recipes.registry import RECIPES
from memory_defense.recipes.scales import SCALES as ROW_SCALES
from memory_defense.threat import BALLS
from memory_defense.workflows.demo import SCALES


@pytest.mark.parametrize(
    ("written", "registry"),
    [
        (names.NORMS, BALLS),
        (names.SCALES, tuple(dict.fromkeys(one.name for one in ROW_SCALES))),
        (names.DEMO_SCALES, SCALES),
        (names.QUEUE, QUEUE),
        (names.FIGURES, figures()),
        (names.TABLES, PUBLISHED),
    ],
)
def test_each_tuple_is_its_registry_in_its_order(written, registry) -> None:
    assert tuple(written) == tuple(registry)


def test_recipes_their_systems_and_the_attacks_of_their_plans() -> None:
    assert {name: one.model.defense for name, one in RECIPES.items()} == names.RECIPES
    plans = {name: one.evaluation for name, one in RECIPES.items()}
    assert {
        name: (*plan.attacks, *plan.white_box, *plan.minimum_norm, *plan.unbounded) for name, plan in plans.items()
    } == names.PLANNED


def test_what_harden_makes_has_the_plan_that_is_checked() -> None:
    asked = HardenOptions(classifier="net:build", weights_sha256="0" * 64, epsilon=0.1)
    images = ImageSpec(channels=1, size=16, classes=("a", "b"), mean=(0.5,), std=(0.5,))
    plan = harden_recipe(asked, "shapes", images, 100).evaluation
    assert (*plan.attacks, *plan.white_box, *plan.minimum_norm) == names.PLANNED_HARDENED


def test_a_share_of_false_alarms_is_refused_in_the_same_words() -> None:
    for share in (0, 1, -0.5, float("nan")):
        assert said(names.check_false_alarms, share) == said(conformal_rank, 100, share)
        assert said(names.check_false_alarms, share)
    assert not said(names.check_false_alarms, 0.05)


@pytest.mark.parametrize("norm", names.NORMS)
def test_radii_are_those_that_balls_take(norm) -> None:
    for epsilon in (0, 0.5, 1, 1.5, -0.1, float("inf"), float("nan")):
        assert said(names.check_radius, norm, epsilon) == said(BALLS[norm], epsilon)
    assert said(names.check_radius, norm, -0.1)


def test_a_classifier_is_written_as_a_place() -> None:
    for place in ("net:build", "package.module:Net.of"):
        names.check_classifier(place)
    with pytest.raises(ValueError, match=r"such as my\.net:build"):
        names.check_classifier("my/net.py:build")


def test_importing_the_names_imports_nothing_heavy() -> None:
    light = ", ".join(
        f"memory_defense.{one}" for one in ("names", "run_directory", "data.places", "attacks.suites")
    )
    code = f"import sys, {light}; print([*sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = ast.literal_eval(done.stdout)
    assert "memory_defense.names" in loaded
    assert not {"torch", "numpy", "PIL", "safetensors"} & set(loaded)


def said(function, *arguments) -> str:
    """Return the message of the ValueError that a call raises; nothing where it raises none."""
    try:
        function(*arguments)
    except ValueError as error:
        return str(error)
    return ""
