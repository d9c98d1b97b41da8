"""The certified recipes: trained by intervals, chosen by what is proven, at the radii that they are named after."""

import json

import pytest
import torch

from memory_defense.certificates.intervals import interval_certificates, verified
from memory_defense.certificates.reading import steps_of
from memory_defense.recipes.certified import (
    CERTIFIED,
    CIFAR_LINF,
    FASHION_LINF,
    FASHION_LINF_STRONG,
    FASHION_LINF_TINY,
)
from memory_defense.recipes.registry import recipe
from memory_defense.systems.build import build_defense
from memory_defense.systems.load import load
from memory_defense.training.intervals import IntervalTraining
from memory_defense.workflows.train import train
from paper.made_up import made_up_splits


@pytest.mark.parametrize("one", CERTIFIED, ids=lambda one: one.name)
def test_one_stage_of_interval_training_is_chosen_by_what_is_proven(one) -> None:
    assert recipe(one.name) is one
    (stage,) = one.stages
    assert isinstance(stage.objective, IntervalTraining)
    assert (stage.part, stage.score) == ("selector", "certified")
    assert stage.fit.optimizer.clip == 10
    assert stage.objective.warm_up < 1
    assert one.model.defense == "undefended"
    steps_of(build_defense(one.model).eval())


@pytest.mark.parametrize(
    ("one", "least", "most", "scored"),
    [
        (FASHION_LINF, 0.05, 0.07, 0.05),
        (FASHION_LINF_STRONG, 0.1, 0.12, 0.1),
        (CIFAR_LINF, 2 / 255, 3 / 255, 2 / 255),
    ],
)
def test_it_is_trained_for_somewhat_more_than_it_is_chosen_at(one, least, most, scored) -> None:
    assert least <= one.stages[0].objective.epsilon <= most
    assert one.held_out.ball.epsilon == scored
    assert scored in {ball.epsilon for ball in one.evaluation.linf}


def test_a_tiny_one_is_trained_and_certified(tmp_path) -> None:
    splits = made_up_splits()
    run = train(FASHION_LINF_TINY, tmp_path / "run", splits, seed=3)
    manifest = json.loads(run.manifest_path.read_text())
    model = load(run.path)
    held_out = splits.held_out.first(20)
    proven = verified(model, held_out.floats(), held_out.labels, 0.02, method="ibp").float().mean()
    assert manifest["stages"]["selector-intervals"]["best_score"] == pytest.approx(float(proven))
    labels, radii = interval_certificates(model, splits.test.floats()[:8], largest=0.1)
    with torch.no_grad():
        assert torch.equal(labels, model(splits.test.floats()[:8]).argmax(1))
    assert radii.shape == (8,)
