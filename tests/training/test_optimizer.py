"""Learning rates as functions of progress, averaging, precision."""

import math
from dataclasses import asdict

import pytest
import torch
from torch import nn

from memory_defense.data.images import ImageSet
from memory_defense.training.adversarial import Benign
from memory_defense.training.fit import Average, FitConfig, fit
from memory_defense.training.optimizer import OptimizerConfig
from memory_defense.training.precision import autocast, resolve


def test_schedules_at_known_points() -> None:
    rates = {
        name: [OptimizerConfig(learning_rate=1.0, schedule=name).rate_at(p) for p in (0, 0.15, 0.3, 0.65, 0.9)]
        for name in ("constant", "one-cycle", "cosine", "step")
    }
    assert rates["constant"] == [1.0] * 5
    assert rates["one-cycle"] == pytest.approx([0.04, 0.52, 1.0, 0.5, 0.5 * (1 + math.cos(math.pi * 6 / 7))])
    assert rates["cosine"][0] == 1.0
    assert rates["step"] == pytest.approx([1, 1, 1, 0.1, 0.01])


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_each_optimizer_moves_downhill_at_the_scheduled_rate(name) -> None:
    parameter = nn.Parameter(torch.tensor([1.0]))
    config = OptimizerConfig(name=name, learning_rate=0.1, schedule="cosine")
    optimizer = config.build([parameter])
    config.schedule_step(optimizer, 0.5)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.05)
    parameter.square().sum().backward()
    optimizer.step()
    assert 0 < parameter.item() < 1


def test_unknown_names_suggest() -> None:
    with pytest.raises(ValueError, match="'adamw'"):
        OptimizerConfig(name="admw")
    with pytest.raises(ValueError, match="'one-cycle'"):
        OptimizerConfig(schedule="onecycle")
    with pytest.raises(ValueError, match="positive"):
        OptimizerConfig(learning_rate=0)


def test_long_gradients_are_clipped_together_and_short_ones_left_alone() -> None:
    one, other = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1))
    config = OptimizerConfig(clip=1.0)
    one.grad, other.grad = torch.tensor([3.0, 0.0]), torch.tensor([4.0])
    config.limit([one, other])
    assert one.grad.tolist() == pytest.approx([0.6, 0], abs=1e-5)
    assert other.grad.tolist() == pytest.approx([0.8], abs=1e-5)
    one.grad, other.grad = torch.tensor([0.3, 0.0]), torch.tensor([0.4])
    before = one.grad.clone()
    config.limit([one, other])
    OptimizerConfig().limit([one, other])
    assert torch.equal(one.grad, before)


def test_fit_clips_the_gradient_of_each_step() -> None:
    """SGD without momentum moves by the rate times the gradient: no step is longer than the rate times the clip."""
    torch.manual_seed(0)
    images = ImageSet(
        torch.randint(0, 256, (64, 1, 2, 2), dtype=torch.uint8), torch.arange(64) % 2, torch.arange(64)
    )
    moved = []
    for clip in (None, 1e-3):
        model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
        before = nn.utils.parameters_to_vector(model.parameters()).detach().clone()
        optimizer = OptimizerConfig(name="sgd", learning_rate=1.0, momentum=0.0, clip=clip)
        fit(model, Benign(), images, FitConfig(epochs=1, batch_size=64, optimizer=optimizer), seed=0)
        moved.append((nn.utils.parameters_to_vector(model.parameters()) - before).norm().item())
    assert moved[0] > 0.01
    assert moved[1] == pytest.approx(1e-3, rel=1e-3)


def test_without_what_came_later_hashes_and_training_states_are_those_of_before() -> None:
    said = (
        "OptimizerConfig(name='sgd', learning_rate=0.1, weight_decay=0.0, betas=(0.9, 0.999), momentum=0.9, "
        "schedule='constant')"
    )
    plain = OptimizerConfig(name="sgd", learning_rate=0.1)
    assert repr(plain) == said
    later = ("clip", "vector_rate")
    assert plain.settings() == {name: value for name, value in asdict(plain).items() if name not in later}
    clipped = OptimizerConfig(name="sgd", learning_rate=0.1, clip=10.0)
    assert repr(clipped) == said.removesuffix(")") + ", clip=10.0)"
    assert clipped.settings() == plain.settings() | {"clip": 10.0}
    quick = OptimizerConfig(name="sgd", learning_rate=0.1, vector_rate=64.0)
    assert repr(quick) == said.removesuffix(")") + ", vector_rate=64.0)"
    assert quick.settings() == plain.settings() | {"vector_rate": 64.0}
    assert clipped != plain


@pytest.mark.parametrize("clip", [0, -1.0, math.nan])
def test_a_clip_that_leaves_nothing_is_refused(clip) -> None:
    with pytest.raises(ValueError, match="leave it out to clip nothing"):
        OptimizerConfig(clip=clip)


def test_average_is_the_warmed_up_moving_mean() -> None:
    model = nn.Linear(1, 1, bias=False)
    average = Average(model, 0.5)
    expected = model.weight.item()
    for step in range(4):
        with torch.no_grad():
            model.weight += 1
        average.update(step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * model.weight.item()
        assert average.model.weight.item() == pytest.approx(expected)


def test_no_averaging_is_the_model_itself() -> None:
    model = nn.Linear(1, 1)
    assert Average(model, 0.0).model is model


def test_precision_follows_the_hardware(monkeypatch) -> None:
    cpu = torch.device("cpu")
    for answer in ({"avx512_bf16": True}, {"amx_bf16": True}, {"avx2": True}):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=answer: found, raising=False)
        assert resolve("auto", cpu) == ("float32" if "avx2" in answer else "bfloat16")
    assert resolve("float32", cpu) == "float32"
    with autocast("bfloat16", cpu):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
    with autocast("float32", cpu):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_vectors_learn_as_many_times_faster_and_decay_alike(name) -> None:
    matrix, vector = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2))
    config = OptimizerConfig(
        name=name, learning_rate=0.01, momentum=0.0, weight_decay=0.1, schedule="cosine", vector_rate=8.0
    )
    optimizer = config.build([matrix, vector])
    config.schedule_step(optimizer, 0.5)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.005, 0.04])
    matrix.grad, vector.grad = torch.zeros(2, 2), torch.zeros(2)
    optimizer.step()
    assert matrix.tolist() == [pytest.approx([1 - 0.0005] * 2)] * 2
    assert vector.tolist() == pytest.approx([1 - 0.0005] * 2), "rate times decay is the same"
    matrix.grad, vector.grad = torch.ones(2, 2), torch.ones(2)
    before = matrix[0, 0].item(), vector[0].item()
    optimizer.step()
    moved = before[0] - matrix[0, 0].item() - 0.0005, before[1] - vector[0].item() - 0.0005
    assert moved[1] == pytest.approx(8 * moved[0], rel=1e-2)


def test_a_factor_of_one_leaves_one_group_and_one_of_zero_is_refused() -> None:
    parameters = [nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2))]
    assert len(OptimizerConfig().build(parameters).param_groups) == 1
    assert len(OptimizerConfig(vector_rate=2.0).build(parameters[:1]).param_groups) == 1
    with pytest.raises(ValueError, match="vector_rate is 0"):
        OptimizerConfig(vector_rate=0)
