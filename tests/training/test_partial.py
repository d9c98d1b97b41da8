"""Fewer parameters, smaller parts of a batch, a checkpoint each minute: what each leaves as it was."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from memory_defense.attacks import Pgd
from memory_defense.tensorfiles import read_tensors
from memory_defense.threat import Linf
from memory_defense.training import fit as loop
from memory_defense.training import validate as scores
from memory_defense.training.adversarial import SingleStep
from memory_defense.training.fit import FitConfig, fit
from memory_defense.training.optimizer import OptimizerConfig
from memory_defense.training.partial import chosen, layers_of, train_only
from memory_defense.training.validate import robust_accuracy
from training.test_fit import network, two_blobs, weights

SGD = OptimizerConfig(name="sgd", learning_rate=0.05)
CONFIG = FitConfig(epochs=2, batch_size=16, optimizer=SGD, precision="float32")
OBJECTIVE = SingleStep(epsilon=0.1)


def plain() -> nn.Module:
    """Without layers that look at a whole batch or draw."""
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2))


@pytest.mark.parametrize("parts", [2, 3, 16])
def test_a_batch_in_parts_is_the_same_step(parts) -> None:
    whole, cut = plain(), plain()
    one = fit(whole, OBJECTIVE, two_blobs(), CONFIG, seed=0)
    other = fit(cut, OBJECTIVE, two_blobs(), replace(CONFIG, accumulate=parts), seed=0)
    for name, tensor in whole.state_dict().items():
        assert torch.allclose(tensor, cut.state_dict()[name], atol=1e-6), name
    assert other.history[-1].losses == pytest.approx(one.history[-1].losses, abs=1e-5)
    untrained = plain().state_dict()
    assert any(not torch.allclose(tensor, untrained[name], atol=1e-3) for name, tensor in cut.state_dict().items())


def test_layers_are_what_holds_parameters_in_their_order() -> None:
    assert layers_of(network()) == [["0.weight", "0.bias"], ["1.weight", "1.bias"], ["5.weight", "5.bias"]]
    assert chosen(network(), last=2) == {"1.weight", "1.bias", "5.weight", "5.bias"}
    assert chosen(network(), only=["*.weight"]) == {"0.weight", "1.weight", "5.weight"}
    assert chosen(network(), last=2, only=["?.bias"]) == {"1.bias", "5.bias"}
    with pytest.raises(ValueError, match="the last 4 layers are to be trained, but there are 3"):
        chosen(network(), last=4)
    with pytest.raises(ValueError, match=r"no parameter's name is like 'head.\*'; .* write '5\*'"):
        chosen(network(), only=["head.*"])
    with pytest.raises(ValueError, match="no parameter is left to train"):
        train_only(network(), chosen(network(), last=1, only=["0.*"]))


def test_what_is_not_trained_stays_as_it_was_statistics_included() -> None:
    model, before = network(), weights(network())
    fit(model, OBJECTIVE, two_blobs(), replace(CONFIG, train_last=1), seed=0)
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {"5.weight", "5.bias"}


def test_the_defaults_leave_a_recipe_s_hash_and_a_state_s_fingerprint_as_they_were() -> None:
    assert "accumulate" not in repr(CONFIG)
    assert repr(CONFIG).startswith("FitConfig(epochs=2, batch_size=16, optimizer=OptimizerConfig(")
    assert "accumulate=2" in repr(replace(CONFIG, accumulate=2))
    assert "train_last=1" in repr(replace(CONFIG, train_last=1))
    with pytest.raises(ValueError, match="accumulate is 17, but a batch has 16 images"):
        replace(CONFIG, accumulate=17)


class _KilledError(Exception):
    pass


def _large(monkeypatch) -> None:
    """Have images count as large, so that they are scored a few at a time, and every chance to save taken."""
    monkeypatch.setattr(scores, "_LARGE", 1)
    monkeypatch.setattr(scores, "_FEW", 8)
    monkeypatch.setattr(loop, "_WORTH_SECONDS", -1.0)


@pytest.mark.parametrize("chunks", [0, 1, 3])
def test_a_training_killed_in_its_score_goes_on_inside_it(tmp_path, monkeypatch, chunks) -> None:
    _large(monkeypatch)
    state, images = tmp_path / "state.safetensors", two_blobs()
    attack = Pgd(steps=2, step_size=0.05)

    def score():
        return robust_accuracy(images.first(32), attack, Linf(0.1), 0)

    undisturbed = network()
    expected = fit(undisturbed, OBJECTIVE, images, CONFIG, seed=0, validate=score())

    broken, asked = score(), []
    whole = broken._right

    def right(model, rows):
        if len(asked) == chunks:
            raise _KilledError
        asked.append(rows)
        return whole(model, rows)

    monkeypatch.setattr(broken, "_right", right)
    with pytest.raises(_KilledError):
        fit(network(), OBJECTIVE, images, CONFIG, seed=0, validate=broken, state=state)
    went_on, again = score(), []
    rest = went_on._right
    monkeypatch.setattr(went_on, "_right", lambda model, rows: (again.append(rows), rest(model, rows))[1])
    model = network()
    assert fit(model, OBJECTIVE, images, CONFIG, seed=0, validate=went_on, state=state) == expected
    assert len(again) == 4 - chunks + 4  # what was left of the first score, and the second
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, undisturbed.state_dict()[name]), name


def test_a_state_is_written_inside_an_epoch_once_a_minute_is_over(tmp_path, monkeypatch) -> None:
    state, steps = tmp_path / "state.safetensors", []

    class Progress:
        def begin(self, what: str, total: int) -> None: ...
        def note(self, text: str) -> None: ...

        def advance(self, steps_done: int, text: str = "") -> None:
            steps.append(state.exists())
            if len(steps) == 4:
                raise _KilledError

    monkeypatch.setattr(loop, "SAVE_SECONDS", 0.0)
    with pytest.raises(_KilledError):
        fit(plain(), OBJECTIVE, two_blobs(), CONFIG, seed=0, state=state, progress=Progress())
    assert steps == [False, False, True, True]  # the first call is of what was done before
    assert '"step": 2' in read_tensors(state)[1]["run"]
