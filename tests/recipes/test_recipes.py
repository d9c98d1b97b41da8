"""Recipes: every one is well formed, and its model can be built."""

import pytest
import torch

from memory_defense.attacks import ATTACKS
from memory_defense.checks import check_images
from memory_defense.data.spec import DATASETS
from memory_defense.defenses.memory.presets import PRESETS
from memory_defense.networks.classifiers import CLASSIFIERS
from memory_defense.recipes import RECIPES, recipe
from memory_defense.recipes.assess import plan_cases
from memory_defense.recipes.build import build_classifier, build_defense


@pytest.mark.parametrize("one", RECIPES.values(), ids=RECIPES)
def test_names_lead_somewhere(one) -> None:
    assert one.name.startswith(one.model.dataset)
    assert one.model.dataset in DATASETS
    assert one.model.preset in PRESETS
    assert {one.model.selector, one.undefended_network} <= set(CLASSIFIERS)
    plan = one.evaluation
    groups = (plan.attacks, plan.white_box, plan.minimum_norm)
    assert {type(attack) for group in groups for attack in group.values()} <= set(ATTACKS.values())
    assert all(ball.norm == "linf" for ball in plan.linf)
    assert all(ball.norm == "l2" for ball in plan.l2)
    each = len(plan.linf) * len(plan.attacks) + len(plan.l2) * len(plan.minimum_norm)
    each += len(plan.curve_balls) * (plan.curve is not None)
    assert len(plan_cases(plan, ("fixed-slots",), {"fixed-slots"})) == each
    assert len(plan_cases(plan, ("selector",))) == each + len(plan.linf) * len(plan.white_box)
    assert one.selector
    assert one.selector[0].offline is None  # nothing to make adversarial images from yet


@pytest.mark.parametrize("one", RECIPES.values(), ids=RECIPES)
def test_hashes_are_stable_and_tell_recipes_apart(one) -> None:
    assert one.sha256 == recipe(one.name).sha256
    assert " at 0x" not in repr(one)  # an address would make the hash another one in every process
    assert sum(other.sha256 == one.sha256 for other in RECIPES.values()) == 1


@pytest.mark.parametrize(
    "one", [r for r in RECIPES.values() if "resnet" not in r.model.selector], ids=lambda r: r.name
)
def test_models_answer_images_with_logits(one) -> None:
    spec = DATASETS[one.model.dataset]
    images = torch.rand(3, spec.channels, spec.size, spec.size)
    check_images(images)
    defense = build_defense(one.model, seed=1).eval()
    assert defense(images).shape == (3, len(spec.classes))


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
