"""Systems with a flag that is fought, as runs: trained, loaded, attacked, stopped and exported."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import memory_defense
from memory_defense.defenses.consistent import PRESETS, Consistent
from memory_defense.defenses.rectified import FALSE_ALARMS, Rectified
from memory_defense.evaluation.options import Options
from memory_defense.evaluation.record import Record
from memory_defense.recipes.fashion_mnist import DEMO
from memory_defense.recipes.selective import CONSISTENT, RECTIFIED, TINY_CONSISTENT, TINY_RECTIFIED
from memory_defense.systems.export import export
from memory_defense.threat import L2
from memory_defense.workflows.assess import assess
from memory_defense.workflows.selecting import FIGHTING, add_selection, selection_balls
from memory_defense.workflows.train import train
from paper.made_up import made_up_splits

RECIPES = {"rectified": TINY_RECTIFIED, "consistent": TINY_CONSISTENT}


@pytest.fixture(scope="module", params=RECIPES)
def trained(request, tmp_path_factory):
    recipe = RECIPES[request.param]
    run = train(recipe, tmp_path_factory.mktemp("runs") / request.param, made_up_splits(), seed=2)
    return recipe, run


def test_a_run_comes_back_with_its_flag(trained) -> None:
    recipe, run = trained
    defense, splits = memory_defense.load(run.path), made_up_splits()
    assert defense.flag_threshold is not None
    if recipe is TINY_RECTIFIED:
        assert isinstance(defense, Rectified)
        alarms = int(defense.suspicious(splits.held_out.floats()).sum())
        assert alarms <= FALSE_ALARMS * 51
    else:
        assert isinstance(defense, Consistent)
        assert (defense.flag_threshold, defense.inner) == (0, PRESETS["tiny"])


def test_the_record_says_what_answer_and_flag_are_worth_together(trained) -> None:
    recipe, run = trained
    defense, splits = memory_defense.load(run.path), made_up_splits()
    record = assess(recipe, run, defense, splits)
    assert record.selection == ()
    whole = add_selection(record, run.record, defense, splits, recipe.evaluation, [0.1, 0.3], Options(seed=9))
    assert Record.read(run.record) == whole
    assert whole.model_copy(update={"selection": ()}) == record
    (one,) = whole.selection
    assert [loss.cost for loss in one.losses] == [0.1, 0.3]
    test = splits.test.first(record.images)
    right = defense(test.floats()).argmax(1) == test.labels
    flagged = defense.suspicious(test.floats())
    assert one.clean_right_accepted.accuracy == float((right & ~flagged).double().mean())
    assert one.clean_wrong_accepted.accuracy == float((~right & ~flagged).double().mean())
    fights = {name for name, known in defense.adaptive().items() if known.fights_flag}
    assert {stage.knowledge for stage in one.stages} == fights | {"alarm"}
    (worst,) = record.worst_case
    assert worst.undetected is not None
    assert one.robust.accuracy <= worst.undetected.accuracy, "these attacks are at least as strong on the flag"
    again = add_selection(record, run.record, defense, splits, recipe.evaluation, [0.1, 0.3], Options(seed=9))
    assert [replaced(stage) for stage in again.selection[0].stages] == [replaced(stage) for stage in one.stages]


def replaced(stage):
    return stage.model_copy(update={"seconds": 0})


def test_a_file_answers_and_flags_as_the_run_does(trained, tmp_path) -> None:
    _, run = trained
    export(run.path, tmp_path / "one.safetensors")
    one, other = memory_defense.load(run.path), memory_defense.load(tmp_path / "one.safetensors")
    images = made_up_splits().test.floats()
    assert torch.equal(one(images), other(images))
    assert one.flag_threshold == other.flag_threshold
    assert torch.equal(one.suspicious(images), other.suspicious(images))


class Stops:
    """Presses the key after some steps."""

    def __init__(self, after: int) -> None:
        self.left = after

    def begin(self, what: str, total: int) -> None: ...

    def note(self, text: str) -> None: ...

    def advance(self, steps: int, text: str = "") -> None:
        self.left -= steps
        if self.left < 0:
            raise KeyboardInterrupt


def test_a_stopped_training_of_both_heads_goes_on_to_the_same_weights(tmp_path) -> None:
    """What the crafting remembers of each image travels with the state."""
    stage = TINY_RECTIFIED.stages[0]
    recipe = replace(TINY_RECTIFIED, stages=(replace(stage, fit=replace(stage.fit, epochs=2)),))
    whole = train(recipe, tmp_path / "whole", made_up_splits(), seed=2)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "cut", made_up_splits(), seed=2, progress=Stops(7))
    cut = train(recipe, tmp_path / "cut", made_up_splits(), seed=2, resume=True)
    first, second = (memory_defense.load(run.path).state_dict() for run in (whole, cut))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_recipes_can_be_compared_with_the_demo() -> None:
    assert CONSISTENT.stages[0] == DEMO.stages[0]
    assert RECTIFIED.stages[0].fit == DEMO.stages[0].fit
    assert RECTIFIED.stages[0].objective.crafting == DEMO.stages[0].objective
    assert [ball.epsilon / 2 for ball in CONSISTENT.evaluation.linf] == [PRESETS["fashion-mnist"].radius]


def test_a_gate_is_attacked_in_its_own_norm_alone() -> None:
    from certificates.proving import Planes
    from memory_defense.defenses.gated import Gated

    plan = replace(RECTIFIED.evaluation, l2=(L2(0.5),))
    assert selection_balls(Gated(Planes(), 0.4), plan) == plan.l2
    assert selection_balls(Planes(), plan) == (*plan.linf, *plan.l2)
    assert "apgd-t" in FIGHTING
