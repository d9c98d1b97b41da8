"""The training loop: it learns, it stops and resumes exactly, it chooses by held-out score."""

import json
import time
from dataclasses import replace

import pytest
import torch
from torch import nn

from memory_defense.data.augmentation import Augmentation
from memory_defense.data.images import ImageSet
from memory_defense.tensorfiles import read_tensors
from memory_defense.training.adversarial import Benign, WarmStart
from memory_defense.training.fit import FitConfig, fit
from memory_defense.training.optimizer import OptimizerConfig
from memory_defense.training.validate import clean_accuracy

CONFIG = FitConfig(
    epochs=3,
    batch_size=16,
    optimizer=OptimizerConfig(name="adamw", learning_rate=1e-2, schedule="one-cycle"),
    averaging=0.9,
    augmentation=Augmentation(horizontal_flip=True, noise_std=0.01),
    precision="float32",
    checkpoint_every=2,
)


def two_blobs(count: int = 80) -> ImageSet:
    """Dark and bright noisy images: separable, so that learning is visible."""
    generator = torch.Generator().manual_seed(3)
    labels = torch.arange(count) % 2
    noise = torch.randint(0, 100, (count, 1, 6, 6), generator=generator)
    return ImageSet((noise + 120 * labels[:, None, None, None]).to(torch.uint8), labels, torch.arange(count))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.3), nn.Linear(64, 2)
    )


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


class StopAt:
    """A progress that presses Ctrl-C after some steps."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def begin(self, what: str, total: int) -> None:
        pass

    def advance(self, steps: int, text: str = "") -> None:
        self.left -= steps
        if self.left <= 0:
            raise KeyboardInterrupt

    def note(self, text: str) -> None:
        pass


class KilledError(RuntimeError):
    pass


class KillAt(StopAt):
    """A progress that dies without warning, as kill -9 would, after some steps."""

    def advance(self, steps: int, text: str = "") -> None:
        self.left -= steps
        if self.left <= 0:
            raise KilledError


def test_it_learns() -> None:
    model, images = network(), two_blobs()
    before = clean_accuracy(images)(model.eval())
    result = fit(model, Benign(), images, CONFIG, seed=1, validate=clean_accuracy(images))
    assert clean_accuracy(images)(model) == result.best_score
    assert result.best_score is not None
    assert result.best_score > max(0.95, before)
    assert not model.training


@pytest.mark.parametrize("objective", [Benign(), WarmStart(epsilon=0.1)], ids=["benign", "warm-start"])
@pytest.mark.parametrize("stop", [StopAt, KillAt])
@pytest.mark.parametrize("steps", [1, 5, 7, 15])
def test_a_stopped_run_ends_bit_identical(tmp_path, objective, stop, steps) -> None:
    fresh = lambda: type(objective)(**{k: v for k, v in vars(objective).items() if k != "memory"})  # noqa: E731
    images, validate = two_blobs(), clean_accuracy(two_blobs(20))
    whole = network()
    expected = fit(whole, fresh(), images, CONFIG, seed=1, validate=validate)
    state = tmp_path / "state.safetensors"
    with pytest.raises((KeyboardInterrupt, KilledError)):
        fit(network(), fresh(), images, CONFIG, seed=1, validate=validate, state=state, progress=stop(steps))
    torch.manual_seed(99)  # whatever happened in between
    torch.rand(7)
    resumed = network()
    again = fit(resumed, fresh(), images, CONFIG, seed=1, validate=validate, state=state)
    assert again == expected
    assert_same(weights(whole), weights(resumed))


def test_a_run_without_averaging_resumes_too(tmp_path) -> None:
    plain, state, whole, resumed = replace(CONFIG, averaging=0.0), tmp_path / "s", network(), network()
    expected = fit(whole, Benign(), two_blobs(), plain, seed=1)
    with pytest.raises(KeyboardInterrupt):
        fit(network(), Benign(), two_blobs(), plain, seed=1, state=state, progress=StopAt(7))
    assert fit(resumed, Benign(), two_blobs(), plain, seed=1, state=state) == expected
    assert_same(weights(whole), weights(resumed))


def test_the_time_of_a_stopped_run_counts_too(tmp_path, monkeypatch) -> None:
    state, ticks = tmp_path / "s", iter(range(10_000))
    monkeypatch.setattr(time, "monotonic", lambda: 60.0 * next(ticks))  # a minute passes between looks
    with pytest.raises(KeyboardInterrupt):
        fit(network(), Benign(), two_blobs(), CONFIG, seed=1, state=state, progress=StopAt(7))
    saved = json.loads(read_tensors(state)[1]["run"])["seconds"]
    assert saved > 0
    assert fit(network(), Benign(), two_blobs(), CONFIG, seed=1, state=state).seconds > saved
    done = json.loads(read_tensors(state)[1]["run"])["seconds"]
    assert done < fit(network(), Benign(), two_blobs(), CONFIG, seed=1, state=state).seconds < done + 600


def test_ctrl_c_saves_the_very_step(tmp_path) -> None:
    state = tmp_path / "state.safetensors"
    with pytest.raises(KeyboardInterrupt):
        fit(network(), Benign(), two_blobs(), CONFIG, seed=1, state=state, progress=StopAt(3))
    _, header = read_tensors(state)
    assert '"step": 3' in header["run"]


def test_the_seed_decides_everything() -> None:
    models = [network() for _ in range(3)]
    for model, seed in zip(models, (1, 1, 2), strict=True):
        torch.rand(seed * 3)
        fit(model, Benign(), two_blobs(), CONFIG, seed=seed)
    assert_same(weights(models[0]), weights(models[1]))
    assert not torch.equal(models[0].state_dict()["5.weight"], models[2].state_dict()["5.weight"])


def test_another_configuration_cannot_continue(tmp_path) -> None:
    state = tmp_path / "state.safetensors"
    with pytest.raises(KeyboardInterrupt):
        fit(network(), Benign(), two_blobs(), CONFIG, seed=1, state=state, progress=StopAt(3))
    with pytest.raises(ValueError, match="another configuration"):
        fit(network(), Benign(), two_blobs(), replace(CONFIG, epochs=9), seed=1, state=state)
    with pytest.raises(ValueError, match="another configuration"):
        fit(network(), Benign(), two_blobs(), CONFIG, seed=2, state=state)


def test_the_best_held_out_weights_are_kept() -> None:
    scores = iter([0.2, 0.9, 0.4])
    seen: list[dict[str, torch.Tensor]] = []

    def validate(model: nn.Module) -> float:
        seen.append(weights(model))
        return next(scores)

    model = network()
    result = fit(model, Benign(), two_blobs(), CONFIG, seed=1, validate=validate)
    assert (result.best_epoch, result.best_score) == (1, 0.9)
    assert_same(weights(model), seen[1])


def test_frozen_parameters_stay() -> None:
    model = network()
    model[0].requires_grad_(False)
    before = weights(model)
    fit(model, Benign(), two_blobs(), CONFIG, seed=1)
    assert torch.equal(model.state_dict()["0.weight"], before["0.weight"])
    assert not torch.equal(model.state_dict()["5.weight"], before["5.weight"])


def test_global_randomness_is_left_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    fit(network_without_seeding(), Benign(), two_blobs(), replace(CONFIG, epochs=1), seed=1)
    assert torch.equal(torch.rand(3), expected)


def network_without_seeding() -> nn.Module:
    with torch.random.fork_rng():
        return network()


@pytest.mark.parametrize(
    ("field", "value"), [("epochs", 0), ("batch_size", 0), ("averaging", 1.0), ("checkpoint_every", 0)]
)
def test_bad_configurations_are_refused(field, value) -> None:
    with pytest.raises(ValueError, match=field):
        replace(CONFIG, **{field: value})


def test_too_few_images() -> None:
    with pytest.raises(ValueError, match="lower batch_size"):
        fit(network(), Benign(), two_blobs(10), CONFIG, seed=1)
