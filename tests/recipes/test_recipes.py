"""Recipes: every one is well formed, and its model can be built."""

import json
from dataclasses import asdict, replace

import pytest
import torch

from memory_defense.attacks import ATTACKS
from memory_defense.checks import check_images
from memory_defense.data.spec import DATASETS
from memory_defense.defenses.memory.presets import PRESETS
from memory_defense.model_spec import ImageSpec, ModelSpec
from memory_defense.networks.classifiers import CLASSIFIERS
from memory_defense.recipes.registry import RECIPES, recipe
from memory_defense.recipes.scales import rows_at
from memory_defense.systems.build import build_classifier, build_defense, classifier_of
from memory_defense.systems.registry import SYSTEMS
from memory_defense.workflows.assess import plan_cases


@pytest.mark.parametrize("one", RECIPES.values(), ids=RECIPES)
def test_names_lead_somewhere(one) -> None:
    assert one.name.startswith(one.model.dataset)
    assert one.model.dataset in DATASETS
    assert one.model.defense in SYSTEMS
    if one.model.defense == "memory-defense":
        assert one.model.preset in PRESETS
    assert {one.model.selector, one.undefended_network} <= {*CLASSIFIERS, ""}
    plan = one.evaluation
    groups = (plan.attacks, plan.white_box, plan.minimum_norm)
    assert {type(attack) for group in groups for attack in group.values()} <= set(ATTACKS.values())
    assert all(ball.norm == "linf" for ball in plan.linf)
    assert all(ball.norm == "l2" for ball in plan.l2)
    each = len(plan.linf) * len(plan.attacks) + len(plan.l2) * len(plan.minimum_norm)
    each += len(plan.curve_balls) * (plan.curve is not None) + len(plan.unbounded)
    assert len(plan_cases(plan, ("fixed-slots",), {"fixed-slots"})) == each
    assert len(plan_cases(plan, ("selector",))) == each + len(plan.linf) * len(plan.white_box)
    assert one.stages
    of_classifier = [stage.part == "selector" for stage in one.stages]
    assert any(of_classifier) == (SYSTEMS[one.model.defense].classifier is not None)
    assert one.stages[0].offline is None  # nothing to make adversarial images from yet


@pytest.mark.parametrize("one", RECIPES.values(), ids=RECIPES)
def test_hashes_are_stable_and_tell_recipes_apart(one) -> None:
    assert one.sha256 == recipe(one.name).sha256
    assert " at 0x" not in repr(one)  # an address would make the hash another one in every process
    assert sum(other.sha256 == one.sha256 for other in RECIPES.values()) == 1


SMALL = {repr(r.model): r.model for r in RECIPES.values() if "resnet" not in r.model.selector}


@pytest.mark.parametrize("model", SMALL.values(), ids=SMALL)
def test_models_answer_images_with_logits(model) -> None:
    spec = DATASETS[model.dataset]
    images = torch.rand(2, spec.channels, spec.size, spec.size)
    check_images(images)
    defense = build_defense(model, seed=1).eval()
    if model.defense != "pixeldefend":  # whose network has to see images first
        assert defense(images).shape == (2, len(spec.classes))
    classifier = classifier_of(model, defense)
    assert (classifier is None) == (model.selector == "")
    if classifier is not None:
        assert classifier(images).shape == (2, len(spec.classes))


def test_a_classifier_is_trained_before_what_stands_on_it() -> None:
    one = RECIPES["fashion-mnist/tiny"]
    with pytest.raises(ValueError, match="put those stages first"):
        replace(one, stages=one.stages[::-1])


def test_a_system_gets_the_classifier_it_stands_on_and_no_other() -> None:
    model = RECIPES["fashion-mnist/tiny"].model
    with pytest.raises(ValueError, match="name one as its selector"):
        build_defense(replace(model, selector=""))
    with pytest.raises(ValueError, match="has no classifier"):
        build_defense(replace(model, defense="memae", preset="paper"))
    with pytest.raises(ValueError, match="did you mean 'memory-defense'"):
        build_defense(replace(model, defense="memory-defence"))


def test_images_of_no_known_dataset_are_described_by_the_model() -> None:
    images = ImageSpec(channels=3, size=16, classes=("a", "b", "c"), mean=(0.5,) * 3, std=(0.2,) * 3)
    model = ModelSpec(dataset="shapes", preset="sound", selector="linear", images=images, memory_size=30)
    assert build_defense(model).eval()(torch.rand(2, 3, 16, 16)).shape == (2, 3)
    assert ModelSpec(**json.loads(json.dumps(asdict(model)))) == model
    with pytest.raises(ValueError, match="images' description: size"):
        ModelSpec(dataset="shapes", preset="sound", images={**asdict(images), "size": "big"})  # pyright: ignore[reportArgumentType]


def test_initialisation_follows_the_seed_alone() -> None:
    model = RECIPES["fashion-mnist/tiny"].model
    torch.manual_seed(4)
    one = build_defense(model, seed=1).state_dict()
    torch.manual_seed(5)
    same, other = build_defense(model, seed=1).state_dict(), build_defense(model, seed=2).state_dict()
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["memory.items"], other["memory.items"])


def test_unknown_names_suggest_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean 'fashion-mnist/demo'"):
        recipe("fashion-mnist/dmeo")
    with pytest.raises(ValueError, match="'small-cnn'"):
        build_classifier("smallcnn", "fashion-mnist", 0, "x")
    with pytest.raises(ValueError, match="'cifar10'"):
        build_classifier("linear", "cifar-10", 0, "x")


def test_rows_of_one_scale_may_stand_on_two_networks() -> None:
    rows = rows_at("desk", "cifar10")
    robust = {name for name, one in rows.items() if one.model.selector == "residual-cnn"}
    assert robust == {"resnet-online", "memory-defense-sound"}
    assert rows["memory-defense-sound"].undefended_network == "whitened-cnn"
    assert rows["memory-defense"].model.selector == rows["resnet-benign"].model.selector == "whitened-cnn"
    quick = rows["resnet-benign"].stages[0].fit.optimizer.vector_rate
    assert quick == 64, "the shifts of its normalisations"
    assert rows["target-classifier"].stages[0].fit.optimizer.vector_rate == 1, (
        "which has biases and no normalisation"
    )
