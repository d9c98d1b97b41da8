"""Models that take some numbers of images only, raise for some images, or change what they share with others."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import memory_defense
from evaluation.helpers_evaluation import Front, five_classes, some_images, some_labels
from memory_defense import Options, Record
from memory_defense.evaluation.log import Log
from memory_defense.evaluation.sizes import Taken, taken_by
from memory_defense.foreign import ModelError, undisturbed

COUNT = 40


class Counting(Front):
    """Takes a pass only where `takes` says so of its number of images."""

    def __init__(self, takes: Callable[[int], bool], said: str = "wrong number of images") -> None:
        super().__init__()
        self.takes, self.said, self.seen = takes, said, set[int]()

    def forward(self, images: Tensor) -> Tensor:
        assert self.takes(len(images)), self.said
        self.seen.add(len(images))
        return super().forward(images)


def evaluated(model: Callable[[Tensor], Tensor], out: Path | None = None, **options: object) -> Record:
    return memory_defense.evaluate(
        model,
        some_images()[:COUNT],
        some_labels()[:COUNT],
        epsilon=0.03,
        attacks="fgsm",
        out=out,
        options=Options(**options),  # pyright: ignore
    )


FIXED = [
    (lambda n: n == 32, "wrong", None, Taken(32, 32)),
    (lambda n: n == 1, "wrong", None, Taken(1, 1)),
    (lambda n: n == 100, "expected a batch of 100", None, Taken(100, 100)),
    (lambda n: n == 24, "wrong", 24, Taken(24, 24)),
    (lambda n: n <= 20, "wrong", None, Taken(8, 16)),
    (lambda n: n > 1, "wrong", None, Taken()),
    (lambda n: n % 8 == 0, "wrong", None, Taken()),
]


@pytest.mark.parametrize(("takes", "said", "wanted", "expected"), FIXED)
def test_what_a_model_takes_is_found_and_every_pass_is_made_so(takes, said, wanted, expected) -> None:
    model = Counting(takes, said)
    found = taken_by(model, some_images()[:COUNT], largest=48, wanted=wanted, seed=0)
    assert found == expected
    record, plain = evaluated(model, batch_size=wanted), evaluated(Front())
    assert all(takes(size) for size in model.seen)
    assert record.clean == plain.clean
    assert abs(record.worst_case[0].accuracy - plain.worst_case[0].accuracy) <= 1 / COUNT
    assert record.notes == ((expected.note,) if expected.note else ())
    assert [line.check for line in record.audit if line.verdict == "not run"] == [
        line.check for line in plain.audit if line.verdict == "not run"
    ]


def test_a_model_that_takes_no_number_is_refused_with_what_it_said() -> None:
    with pytest.raises(ModelError, match=r"AssertionError: never .*test_foreign_models.py:\d+.*see where with"):
        evaluated(Counting(lambda _: False, "never"))


def test_a_scripted_program_says_what_is_wrong_without_its_traceback() -> None:
    program = torch.jit.trace(
        nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(72, 5)), torch.rand(2, 1, 8, 8)
    )
    with pytest.raises(
        ModelError, match=r"the model raised RuntimeError: Given groups=1, weight of size"
    ) as caught:
        memory_defense.evaluate(program, torch.rand(4, 3, 8, 8), torch.arange(4), epsilon=0.1)
    assert len(str(caught.value)) < 400


def test_an_exported_program_of_one_batch_is_evaluated(tmp_path) -> None:
    network = five_classes()
    program = torch.export.export(network, (some_images()[:4],)).module()
    record = evaluated(program)
    assert record.notes == ("every pass had exactly 4 images: the model does not take every number",)
    assert record.clean.accuracy == 1


class Touchy(Front):
    """Raises for an image that it knows, or for any whose first pixel is below `least`."""

    def __init__(self, known: Tensor | None = None, least: float = -1.0) -> None:
        super().__init__()
        self.known, self.least = known, least

    def forward(self, images: Tensor) -> Tensor:
        if self.known is not None and bool((images == self.known).flatten(1).all(1).any()):
            raise KeyError("corrupt marker")
        if float(images.detach()[:, 0, 0, 0].min()) < self.least:
            raise ArithmeticError("a pixel is too dark")
        return super().forward(images)


def test_the_image_that_a_model_raises_for_is_named_and_leaving_it_out_works(tmp_path) -> None:
    images, labels = some_images()[:COUNT], some_labels()[:COUNT]
    model, out = Touchy(images[23]), tmp_path / "r.json"
    ids = torch.arange(100, 100 + COUNT)
    said = r"KeyError: 'corrupt marker' .*judging clean images; it fails on the image with id 123 even alone"
    with pytest.raises(ModelError, match=said):
        memory_defense.evaluate(
            model, images, labels, epsilon=0.03, attacks="fgsm", out=out, options=Options(ids=ids)
        )
    others = [row for row in range(COUNT) if row != 23]
    record = memory_defense.evaluate(model, images[others], labels[others], epsilon=0.03, attacks="fgsm", out=out)
    assert record.images == COUNT - 1


class Breaks(Front):
    """Raises, once armed, for images that lie close to a known one and are not it."""

    def __init__(self, known: Tensor) -> None:
        super().__init__()
        self.known, self.armed = known, True

    def forward(self, images: Tensor) -> Tensor:
        distance = (images.detach() - self.known).flatten(1).abs().amax(1)
        if self.armed and bool(((distance > 0) & (distance < 0.06)).any()):
            raise ArithmeticError("a fuse")
        return super().forward(images)


def test_an_error_in_the_middle_names_the_attack_and_what_was_done_is_kept(tmp_path) -> None:
    images, labels = some_images()[:COUNT], some_labels()[:COUNT]
    model, out = Breaks(images[20]), tmp_path / "r.json"

    def evaluate() -> Record:
        return memory_defense.evaluate(
            model, images, labels, epsilon=0.05, attacks="pgd", out=out, options=Options(chunk=8)
        )

    with pytest.raises(ModelError, match=r"ArithmeticError: a fuse .*under pgd, on images that it was not given"):
        evaluate()
    state = out.with_suffix(".progress.log")
    tried = [found["rows"].tolist() for found, said, _ in Log(state, reading=True).entries() if "attempt" in said]
    assert sorted(row for rows in tried for row in rows) == list(range(16)), (
        "two chunks, and not the one that failed"
    )
    model.armed = False
    whole = memory_defense.evaluate(model, images, labels, epsilon=0.05, attacks="pgd")
    assert evaluate().worst_case == whole.worst_case
    assert not state.exists()


def test_a_check_that_the_model_raises_in_does_not_lose_the_evaluation() -> None:
    record = evaluated(Touchy(least=1e-6))  # the audit shows black images
    lines = [line for line in record.audit if "a pixel is too dark" in line.meaning]
    assert lines
    assert {line.verdict for line in lines} == {"not run"}


class Meddling(Front):
    """Changes everything that it shares with others, at every call."""

    def forward(self, images: Tensor) -> Tensor:
        sys.stdout.write("never mind\n")
        torch.manual_seed(0)
        random.seed(0)
        np.random.seed(0)
        torch.set_default_dtype(torch.float64)
        torch.set_num_threads(1)
        torch.use_deterministic_algorithms(True)
        torch.set_float32_matmul_precision("high")
        logits = super().forward(images)
        torch.set_grad_enabled(not torch.is_grad_enabled())
        return logits


def shared() -> list[object]:
    return [
        torch.random.get_rng_state().tolist(),
        random.getstate(),
        np.random.get_state()[1].tolist(),  # pyright: ignore
        torch.is_grad_enabled(),
        torch.get_default_dtype(),
        torch.get_default_device(),
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        torch.get_float32_matmul_precision(),
        torch.backends.cudnn.benchmark,
    ]


@pytest.fixture
def usual_settings():
    with undisturbed():
        yield


@pytest.mark.usefixtures("usual_settings")
def test_a_model_that_meddles_changes_neither_the_result_nor_the_caller(capsys) -> None:
    torch.set_num_threads(2)
    torch.manual_seed(123)
    random.seed(4)
    np.random.seed(5)
    plain = evaluated(Front())
    before = shared()
    model = Meddling().train()
    found = evaluated(model)
    assert shared() == before
    assert model.training
    assert found.worst_case == plain.worst_case
    assert found.clean == plain.clean
    assert capsys.readouterr().out.startswith("never mind")


class Stopping(Meddling):
    """Stops in the middle of an attack."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error

    def forward(self, images: Tensor) -> Tensor:
        logits = super().forward(images)
        torch.set_default_device("meta")
        if len(images) > 8 and logits.requires_grad:
            raise self.error
        torch.set_default_device(None)
        return logits


@pytest.mark.usefixtures("usual_settings")
@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("no"), SystemExit(3)])
def test_also_where_it_raises_and_on_ctrl_c(error) -> None:
    torch.manual_seed(123)
    before, model = shared(), Stopping(error).train()
    expected = ModelError if isinstance(error, RuntimeError) else type(error)
    with pytest.raises(expected):
        evaluated(model)
    assert shared() == before
    assert model.training
    assert all(one.requires_grad for one in nn.Linear(2, 2).parameters())
