"""Faults 1 to 15: what an evaluation is given, and what a model or an attack does. Each gets a clear answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import memory_defense
from faults.helpers_faults import Front, five_classes, memdef, refused, some_images, some_labels
from memory_defense.defenses.memory.presets import build_memory_defense
from memory_defense.defenses.memory.slots import SlotMemory
from memory_defense.defenses.undefended import Undefended
from memory_defense.evaluation.cases import Case
from memory_defense.evaluation.options import Options
from memory_defense.evaluation.record import Record
from memory_defense.evaluation.robustness import evaluate as attack_with
from memory_defense.networks.classifiers import CLASSIFIERS
from memory_defense.threat import Linf
from memory_defense.training.fit import FitConfig
from memory_defense.wrappers import frozen

EPSILON = 0.1


def evaluated(
    model: nn.Module | None = None, images: Tensor | None = None, labels: Tensor | None = None, **options: Any
) -> Record:
    """Evaluate with PGD; everything that is not given is sound."""
    chosen = some_images() if images is None else images
    truth = some_labels(len(chosen)) if labels is None else labels
    settings: dict[str, Any] = {"epsilon": EPSILON, "attacks": "pgd"} | options
    return memory_defense.evaluate(model or Front().eval(), chosen, truth, **settings)


def failed(record: Record) -> dict[str, str]:
    """Return the checks of the audit that failed, with their remedies."""
    return {line.check: line.remedy for line in record.audit if line.verdict == "fail"}


def test_case_01_grey_levels() -> None:
    with pytest.raises(ValueError, match=r"images span \[.*, 25.*\], expected \[0, 1\].*use x / 255"):
        evaluated(images=some_images() * 255)


def test_case_02_normalised_images() -> None:
    with pytest.raises(ValueError, match=r"images span \[-2\.4.*normalised: undo it.*model's first layer"):
        evaluated(images=some_images() * 4 - 2.42)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda images: (images * 255).byte(), r"uint8 in \[0, 255\].*images\.float\(\) / 255"),
        (lambda images: images.long(), r"torch\.int64, expected torch\.float32; use images\.float\(\)"),
        (lambda images: images.bool(), r"torch\.bool, expected torch\.float32; use images\.float\(\)"),
        (lambda images: images.permute(0, 2, 3, 1), r"channels last\? use images\.permute\(0, 3, 1, 2\)"),
        (lambda images: torch.rand(28, 28, 1), r"shape \(28, 28, 1\), expected \(B, C, H, W\)"),
    ],
)
def test_case_03_types_and_layouts(change, said) -> None:
    with pytest.raises(ValueError, match=said):
        evaluated(images=change(some_images()), labels=some_labels())


@pytest.mark.parametrize("exact", [torch.float64, torch.float16, torch.bfloat16])
def test_case_03_pixels_in_another_precision_are_the_same_pixels(exact) -> None:
    images = (some_images() * 16).round() / 16  # exact in every type
    with torch.no_grad():
        labels = Front().network(images).argmax(1)
    plain, other = evaluated(images=images, labels=labels), evaluated(images=images.to(exact), labels=labels)
    assert other.worst_case == plain.worst_case
    assert other.clean == plain.clean


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_case_04_a_pixel_that_is_no_number(value) -> None:
    images = some_images()
    images[3, 0, 4, 4] = value
    with pytest.raises(ValueError, match="1 pixels are NaN or infinite; remove or repair"):
        evaluated(images=images)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda labels: nn.functional.one_hot(labels, 5), r"one-hot\? .*labels\.argmax\(1\)"),
        (lambda labels: labels.float(), r"torch\.float32, expected torch\.int64; use labels\.long\(\)"),
        (lambda labels: labels - labels.amin() - 1, r"labels span -1\.\.\d, expected at least 0"),
        (lambda labels: labels.clone().fill_(5), "labels go up to 5, but the model has 5 classes, counted from 0"),
        (lambda labels: labels[:7], r"labels have shape \(7,\), expected \(12,\), one for each image"),
    ],
)
def test_case_05_labels(change, said) -> None:
    with pytest.raises(ValueError, match=said):
        evaluated(labels=change(some_labels()))


def test_case_06_no_image_one_image_and_a_last_batch_of_one() -> None:
    with pytest.raises(ValueError, match="there are no images"):
        evaluated(images=some_images(0), labels=some_labels(3)[:0])
    one = evaluated(images=some_images(1))
    assert one.images == 1
    assert one.clean.accuracy == 1
    assert one.clean.ci95[0] < 0.5, "one image says little, and the interval says so"
    with_norm = nn.Sequential(nn.BatchNorm2d(1), Front()).train()  # one image has no batch statistics
    seventeen = evaluated(with_norm, some_images(17), some_labels(17), attacks="fgsm")
    assert seventeen.images == 17
    assert with_norm.training
    with pytest.raises(ValueError, match="batch_size is 0, but it must be at least 1"):
        FitConfig(epochs=1, batch_size=0)


@pytest.mark.parametrize(
    ("back", "said"),
    [
        (lambda logits: {"logits": logits}, "the model returned dict, expected a tensor of float logits"),
        (lambda logits: (logits, logits), "the model returned tuple, expected a tensor"),
        (lambda logits: logits.long(), r"the model returned torch\.int64, expected a tensor of float logits"),
        (lambda logits: logits.flatten(), r"returned shape .*, expected logits \(B, K\)"),
        (lambda logits: logits * torch.nan, "NaN or infinite logits for all 12 images; no accuracy can be claimed"),
    ],
)
def test_case_07_answers_that_are_no_logits(back, said) -> None:
    with pytest.raises(ValueError, match=said):
        evaluated(Front(back))


def test_case_07_probabilities_are_noticed_and_the_number_of_classes(tmp_path, monkeypatch) -> None:
    found = failed(evaluated(Front(lambda logits: logits.softmax(1))))
    assert "answers are logits, not probabilities" in found
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine_fault_07.py").write_text(
        "from torch import nn\nbuild = nn.Sequential(nn.Flatten(), nn.Linear(64, 7))\n"
    )
    five_classes(tmp_path / "five.npz")
    asked = ("evaluate", "mine_fault_07:build", "--data", "five.npz", "--epsilon", "0.1", "--attacks", "fgsm")
    refused(memdef(*asked), "its weights may be random", "--random-weights")
    said = memdef(*asked, "--random-weights")
    assert said.status == 0, said
    assert "among the 7 outputs of the model" in said.err
    assert "positions among the folders" not in said.err


class Dropping(Front):
    """Drops out while training."""

    def forward(self, images: Tensor) -> object:
        return self.network(nn.functional.dropout(images, 0.5, self.training))


def test_case_08_a_model_left_in_train_mode() -> None:
    model = Dropping().train()
    model.network[1].eval()
    record = evaluated(model)
    assert record.clean.accuracy == 1, "judged without dropout"
    assert "same answer when asked twice" not in failed(record)
    modes = [module.training for module in model.modules()]
    assert modes.count(False) == 1, "every module is in the mode it was in"

    def fail() -> None:
        with frozen(model):
            assert not any(module.training for module in model.modules())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert [module.training for module in model.modules()] == modes
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_case_09_radii(tmp_path, monkeypatch) -> None:
    nothing = evaluated(epsilon=0.0)
    assert nothing.worst_case[0].accuracy == nothing.clean.accuracy == 1
    for radius, said in (
        (-0.1, r"-0\.1.*must be in \[0, 1\]"),
        (8, r"epsilon is 8.*8/255"),
        ("8/255", "one radius"),
    ):
        with pytest.raises(ValueError, match=said):
            evaluated(epsilon=radius)
    with pytest.raises(ValueError, match="one radius or several"):
        evaluated(epsilon=[])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine_fault_09.py").write_text(
        "from torch import nn\nbuild = nn.Sequential(nn.Flatten(), nn.Linear(64, 5))\n"
    )
    five_classes(tmp_path / "five.npz")
    for text, said in (("8", "(8/255)"), ("-1/255", "must be in [0, 1]"), ("eight", "is not a number")):
        refused(memdef("evaluate", "mine_fault_09:build", "--data", "five.npz", f"--epsilon={text}"), said)
    assert not list(tmp_path.glob("*.json")), "nothing is written"


@dataclass(frozen=True, kw_only=True)
class Astray:
    """An attack that returns what it likes."""

    add: float

    def __call__(self, model: Any, images: Tensor, labels: Tensor, ball: Any, draws: Any) -> Tensor:
        model(images)
        return images + self.add

    def for_transfer(self) -> Astray:
        return self


@pytest.mark.parametrize("add", [0.5, -0.11, torch.nan, torch.inf])
def test_case_10_an_attack_outside_the_ball_is_refused(add) -> None:
    case = Case(name="astray", attack=Astray(add=add), knowledge="end-to-end", ball=Linf(EPSILON))
    defense = Undefended(Front().eval())
    with pytest.raises(ValueError, match=r"astray returned \d+ of 12 images outside its linf ball.*refused"):
        attack_with(defense, some_images(), some_labels(), [case], options=Options(seed=0))


def test_case_11_all_wrong_all_broken_none_broken() -> None:
    wrong = evaluated(labels=(some_labels() + 1) % 5)
    assert (wrong.clean.accuracy, wrong.worst_case[0].accuracy) == (0, None), "nothing was there to attack"
    assert "clean accuracy, with its interval, is above chance" in failed(wrong)
    broken = evaluated(epsilon=1.0, attacks="fgsm,pgd,square")
    assert broken.worst_case[0].accuracy == 0
    stages = broken.cascades[0].stages
    assert sum(stage.first for stage in stages) == 12, "every image is counted once"
    assert any(stage.tried == 0 for stage in stages), "what comes after the last image tries none"
    whole = evaluated(epsilon=1e-6, attacks="fgsm,pgd")
    assert whole.worst_case[0].accuracy == 1
    assert all(stage.fooled == 0 for stage in whole.cascades[0].stages)


class Rounded(Front):
    """Rounds to grey levels first: a gradient that is zero everywhere."""

    def forward(self, images: Tensor) -> object:
        return self.network((images * 255).round() / 255)


class Severed(Front):
    """No gradient at all."""

    def forward(self, images: Tensor) -> object:
        return self.network(images.detach())


@pytest.mark.parametrize("model", [Rounded, Severed])
def test_case_12_no_gradient_is_no_robustness(model) -> None:
    record = evaluated(model())
    found = failed(record)
    assert "the cross-entropy has a gradient" in found
    # Rounded has a gradient, of zeros, so PGD runs and finds nothing: the audit must say why. Severed has none.
    assert record.worst_case[0].accuracy == (None if model is Severed else 1)
    if model is Severed:
        assert any("gradient" in stage.note for stage in record.cascades[0].stages)


class Noisy(Front):
    """Draws noise at every call."""

    def forward(self, images: Tensor) -> object:
        return self.network(images + 0.3 * torch.randn_like(images))


def test_case_13_randomness_under_a_deterministic_protocol() -> None:
    found = failed(evaluated(Noisy()))
    assert "same answer when asked twice" in found
    remedy = found["no randomness, or attacked in expectation and judged often"]
    assert "wrappers.Eot" in remedy
    assert "submissions" in remedy


class Told(Front):
    """Wants the label."""

    def forward(self, images: Tensor, labels: Tensor) -> object:  # type: ignore[override]
        return self.network(images) + nn.functional.one_hot(labels, 5)


def test_case_14_a_defense_that_is_told_the_label() -> None:
    with pytest.raises(ValueError, match=r"the model asks for images, labels; .*has no robustness to measure"):
        evaluated(Told())


def small_memory(preset: str = "paper", **options: Any) -> nn.Module:
    facts: Mapping[str, Any] = {"channels": 1, "size": 28, "classes": 10, "mean": (0.5,), "std": (0.5,)}
    selector = CLASSIFIERS["linear"](**facts)
    return build_memory_defense(preset=preset, selector=selector, **facts, **options)


def test_case_15_memories_that_do_not_divide_and_slots_that_are_empty() -> None:
    with pytest.raises(ValueError, match=r"25 items for 10 classes.*use 20 or 30"):
        small_memory(memory_size=25)
    with pytest.raises(ValueError, match=r"shrink_threshold is 0\.9, above every weight.*nothing is ever read"):
        SlotMemory(items=20, code_size=4, classes=10, shrink_threshold=0.9, keep_one=False)
    defense = small_memory(memory_size=20).eval()
    memory = next(module for module in defense.modules() if isinstance(module, SlotMemory))
    memory.shrink_threshold, memory.keep_one = 0.9, False  # as the released code allows: every weight is cut
    logits = defense(torch.rand(4, 1, 28, 28, generator=torch.Generator().manual_seed(0)))
    assert torch.isfinite(logits).all(), "0 / 0 in the released code"
