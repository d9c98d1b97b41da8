"""What is said about speed, where compiling happens, and that neither changes a weight."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from memory_defense.training import fit as fitting
from memory_defense.training import precision
from memory_defense.training.adversarial import Benign, SingleStep
from memory_defense.training.fit import FitConfig, fit
from memory_defense.training.precision import COMPILE_STEPS, compiled, lay_out_images, tuned
from memory_defense.training.speed import CountFlop, Speed, matrix_rate
from training.rank_cases import CONFIG, images, network, weights

CPU = torch.device("cpu")


class Clock:
    """A clock that moves when told."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Texts:
    """A progress that keeps what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def begin(self, what: str, total: int) -> None:
        pass

    def advance(self, steps: int, text: str = "") -> None:
        self.said.append(text)

    def note(self, text: str) -> None:
        pass


def test_flop_of_a_linear_layer_in_closed_form() -> None:
    layer, batch = nn.Linear(12, 5), torch.rand(7, 12, requires_grad=True)
    with CountFlop() as count:
        layer(batch).sum().backward()
    assert count.total == 3 * 2 * 7 * 12 * 5  # forward, gradient of the weights, gradient of the input
    with CountFlop() as count:
        layer(batch.detach()).sum().backward()
    assert count.total == 2 * 2 * 7 * 12 * 5


def test_flop_of_a_convolution_in_closed_form_and_as_torch_counts() -> None:
    layer, batch = nn.Conv2d(3, 4, 5, stride=2, padding=2), torch.rand(2, 3, 8, 8)
    with CountFlop() as count, torch.no_grad():
        layer(batch)
    assert count.total == 2 * 2 * 4 * 3 * 25 * 4 * 4
    model = network(normalised=True)
    theirs = FlopCounterMode(display=False)
    with theirs:
        model(torch.rand(4, 1, 6, 6)).sum().backward()
    with CountFlop() as ours:
        model(torch.rand(4, 1, 6, 6)).sum().backward()
    assert ours.total == theirs.get_total_flops() > 0


@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
def test_the_matrix_rate_is_measured_once(kind) -> None:
    rate = matrix_rate(CPU, kind)
    assert 1e6 < rate < 1e16
    assert matrix_rate(CPU, kind) == rate


@pytest.mark.parametrize(("processes", "each"), [(1, ""), (4, " each")])
def test_what_is_said_follows_from_the_clock(monkeypatch, processes, each) -> None:
    monkeypatch.setattr("memory_defense.training.speed.matrix_rate", lambda device, kind: 2e12)
    clock = Clock()
    speed = Speed(CPU, "float32", 128, processes, clock)
    with speed.first() as counted:
        assert counted is speed.flop
    speed.flop.total = 10**11  # of this process in one step
    clock.now = 50.0  # the first step takes long and does not count
    assert speed.step() == ""
    with speed.first() as nothing:
        assert nothing is None
    clock.now = 51.0
    assert speed.step() == ""
    clock.now = 52.0
    expected = f"128 images/s, 5% of the measured 2 TFLOP/s{each}"
    assert speed.step() == expected
    clock.now = 53.0
    assert speed.step() == expected, "said until the next window is over"
    clock.now = 56.0
    assert speed.step().startswith("64 images/s, 2%")


def test_training_says_how_fast_and_stays_bit_identical(monkeypatch) -> None:
    monkeypatch.setattr("memory_defense.training.speed._WINDOW_SECONDS", 0.0)
    quiet, watched, texts = network(normalised=True), network(normalised=True), Texts()
    objective = SingleStep(epsilon=0.05)
    fit(quiet, objective, images(), CONFIG, seed=1)
    fit(watched, objective, images(), CONFIG, seed=1, progress=texts)
    assert all(torch.equal(tensor, weights(watched)[name]) for name, tensor in weights(quiet).items())
    assert texts.said[:2] == ["", ""]
    assert all("images/s" in text and "TFLOP/s" in text for text in texts.said[2:])


def test_compiling_is_left_alone_on_a_processor(monkeypatch) -> None:
    monkeypatch.setattr(precision, "find_spec", lambda name: object())
    model, gpu = network(normalised=False), torch.device("cuda")
    assert compiled(model, "auto", CPU, 10**6) is model
    assert compiled(model, False, gpu, 10**6) is model
    assert compiled(model, "auto", gpu, COMPILE_STEPS - 1) is model
    translated = compiled(model, "auto", gpu, COMPILE_STEPS)
    assert translated is not model
    assert next(translated.parameters()) is next(model.parameters())
    monkeypatch.setattr(precision, "find_spec", lambda name: None)
    assert compiled(model, "auto", gpu, 10**6) is model


class Published(nn.Module):
    """A system: what trains it calls its parts."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = network(normalised=False)

    def forward(self, seen: Tensor) -> Tensor:
        return self.inner(seen)

    def surrogates(self) -> dict[str, nn.Module]:
        return {}


def test_a_whole_system_is_not_compiled_unless_asked(monkeypatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr(fitting, "compiled", lambda model, choice, *rest: asked.append(choice) or model)
    for model, choice in ((Published(), "auto"), (Published(), True), (network(normalised=False), "auto")):
        fit(model, Benign(), images(), replace(CONFIG, epochs=1, compile=choice), seed=1)
    assert asked == [False, True, "auto"]


def test_a_score_is_taken_without_trying_convolutions(monkeypatch) -> None:
    seen: list[bool] = []
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)

    def validate(model: nn.Module) -> float:
        seen.append(torch.backends.cudnn.benchmark)
        return 0.0

    fit(network(normalised=False), Benign(), images(), replace(CONFIG, epochs=2), seed=1, validate=validate)
    assert seen == [False, False]
    assert torch.backends.cudnn.benchmark


def test_a_compiled_run_ends_in_the_same_model() -> None:
    plain, wrapped = network(normalised=True), network(normalised=True)
    config = replace(CONFIG, epochs=1)
    fit(plain, Benign(), images(), config, seed=1)
    with torch.compiler.set_stance("force_eager"):  # everything but the translation itself
        fit(wrapped, Benign(), images(), replace(config, compile=True), seed=1)
    assert not wrapped.training
    assert all(torch.equal(tensor, weights(wrapped)[name]) for name, tensor in weights(plain).items())


def test_compiling_is_no_part_of_a_configuration_s_text() -> None:
    assert repr(replace(CONFIG, compile=True)) == repr(CONFIG)
    with pytest.raises(ValueError, match="compile is 'yes'"):
        FitConfig(epochs=1, compile="yes")


def test_a_processor_s_layout_and_settings_stay() -> None:
    batch, before = torch.rand(2, 3, 4, 4), torch.backends.cudnn.benchmark
    assert lay_out_images(batch) is batch
    with tuned(CPU):
        assert torch.backends.cudnn.benchmark == before
    with tuned(torch.device("cuda")):
        assert torch.backends.cudnn.benchmark != torch.backends.cudnn.deterministic
    assert torch.backends.cudnn.benchmark == before
