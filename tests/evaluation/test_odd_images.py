"""Odd images in an evaluation: named in record, notes and display, counted as documented, and alone in it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import memory_defense
from evaluation.helpers_evaluation import five_classes, some_images
from memory_defense import Options, Record
from memory_defense.attacks.suites import parts_of
from memory_defense.defenses.undefended import Undefended
from memory_defense.evaluation.gallery import write_gallery
from memory_defense.evaluation.kept import check_still_its_own
from memory_defense.evaluation.metrics import NO_ANSWER, Submissions, judged
from memory_defense.evaluation.results import read_per_image
from memory_defense.evaluation.robustness import evaluate as attack_all
from memory_defense.evaluation.state import Broken
from memory_defense.reporting.gallery import Gallery
from memory_defense.reporting.thumbnails import examples
from memory_defense.threat import Linf
from memory_defense.workflows.evaluate import cascade_cases

COUNT, ODD, EPSILON = 24, 5, 0.03


class Standardised(nn.Module):
    """Standardises each image by itself: a constant one has the gradient 0/0, and with 0 added that answer."""

    def __init__(self, add: float) -> None:
        super().__init__()
        self.network, self.add = five_classes(), add

    def forward(self, images: Tensor) -> Tensor:
        centred = images - images.mean((1, 2, 3), keepdim=True)
        spread = centred.square().mean((1, 2, 3), keepdim=True).sqrt() + self.add
        return self.network(centred / spread * 0.3 + 0.5)


class Falling(nn.Module):
    """Has no answer for bright images that were moved away from plain 0.9."""

    def __init__(self) -> None:
        super().__init__()
        self.network = five_classes()

    def forward(self, images: Tensor) -> Tensor:
        flat = images.flatten(1)
        lost = (flat.mean(1) > 0.8) & ((flat - 0.9).abs().amax(1) > 0.005)
        return self.network(images).masked_fill(lost[:, None], torch.inf)


def problem(model: nn.Module, level: float = 0.0) -> tuple[Tensor, Tensor]:
    images = some_images()[:COUNT].clone()
    images[ODD] = level
    return images, model(images).nan_to_num().argmax(1)


class Told:
    def __init__(self) -> None:
        self.said: list[str] = []

    def begin(self, what: str, total: int) -> None: ...

    def advance(self, steps: int, text: str = "") -> None: ...

    def note(self, text: str) -> None:
        self.said.append(text)


def evaluated(
    model: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor, attacks: str, out: Path, **options: object
) -> tuple[Record, Tensor, Tensor]:
    record = memory_defense.evaluate(
        model,
        images,
        labels,
        epsilon=EPSILON,
        attacks=attacks,
        out=out,
        options=Options(**options),  # pyright: ignore
    )
    found = read_per_image(out.with_suffix(".images.safetensors"))
    return record, found.broken[0].robust, found.predictions


def others_are_the_same(model: nn.Module, level: float, attacks: str, folder: Path) -> Record:
    """Evaluate with and without the odd image; return the record with it."""
    images, labels = problem(model, level)
    others = torch.tensor([row for row in range(COUNT) if row != ODD])
    told = Told()
    record, robust, _ = evaluated(model, images, labels, attacks, folder / "all.json", progress=told)
    without, alone, _ = evaluated(
        model, images[others], labels[others], attacks, folder / "others.json", ids=others
    )
    assert without.odd_images == ()
    assert without.notes == ()
    found, expected = (read_per_image(folder / f"{name}.images.safetensors") for name in ("all", "others"))
    if record.batch_invariance == without.batch_invariance and record.batch_invariance.granule:  # pyright: ignore
        assert torch.equal(robust[others], alone)
        for name in ("breaker", "distance", "lead"):
            assert torch.equal(getattr(found.broken[0], name)[others], getattr(expected.broken[0], name)), name
    else:
        assert int((robust[others] != alone).sum()) <= 1
    for line in record.notes:
        assert line in told.said
    assert record == Record.read(folder / "all.json")
    return record


@pytest.mark.parametrize("attacks", ["fgsm", "bim", "pgd-t", "fab-t", "apgd", "apgd-t"])
def test_an_image_without_a_gradient_is_named_and_the_others_go_on(attacks, tmp_path) -> None:
    record = others_are_the_same(Standardised(1e-3), 0.0, attacks, tmp_path)
    assert record.clean.accuracy == 1
    if attacks in ("apgd", "apgd-t", "pgd-t"):  # these start elsewhere
        assert record.odd_images == ()
        return
    (odd,) = record.odd_images
    assert (odd.kind, odd.ids) == ("gradient", (ODD,))
    assert record.notes == (f"1 image has no finite gradient: id {ODD} (counted as 0)",)
    assert record.cascades[0].stages[0].note == record.notes[0]
    assert record.worst_case[0].accuracy < 1


def test_an_attack_without_gradients_still_tries_that_image(tmp_path) -> None:
    images, labels = problem(model := Standardised(1e-3))
    record, _, _ = evaluated(model, images, labels, "fgsm,square", tmp_path / "r.json")
    first, second = record.cascades[0].stages
    assert first.tried == COUNT
    assert second.tried == COUNT - first.fooled, "the odd image is among them"
    failed = {line.check for line in record.audit if line.verdict == "fail"}
    assert "the margin loss has a gradient" in failed


@pytest.mark.parametrize("attacks", ["fgsm", "pgd", "square", "fast"])
def test_an_image_without_an_answer_is_wrong_and_stays_in_the_denominator(attacks, tmp_path) -> None:
    record = others_are_the_same(Standardised(0.0), 0.0, attacks, tmp_path)
    assert record.images == COUNT
    assert record.clean.accuracy == pytest.approx((COUNT - 1) / COUNT)
    assert record.worst_case[0].accuracy <= record.clean.accuracy
    (odd,) = record.odd_images
    assert (odd.kind, odd.ids) == ("clean", (ODD,))
    assert record.notes == (f"1 image has no finite answer: id {ODD} (counted as wrong)",)
    found = read_per_image(tmp_path / "all.images.safetensors")
    assert found.predictions[ODD] == NO_ANSWER
    assert not found.broken[0].robust[ODD]
    assert found.broken[0].breaker[ODD] == -1


@pytest.mark.parametrize("attacks", ["fgsm", "pgd", "square", "hop-skip-jump"])
def test_an_image_that_loses_its_answer_under_attack_is_broken(attacks, tmp_path) -> None:
    record = others_are_the_same(Falling(), 0.9, attacks, tmp_path)
    assert record.clean.accuracy == 1
    (odd,) = record.odd_images
    assert (odd.kind, odd.ids) == ("attacked", (ODD,))
    assert record.notes == (f"1 image has no finite answer when attacked: id {ODD} (counted as broken)",)
    found = read_per_image(tmp_path / "all.images.safetensors")
    assert not found.broken[0].robust[ODD]
    assert found.broken[0].breaker[ODD] == 0


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda logits: logits * torch.nan, "NaN or infinite logits for all 24 images"),
        (
            lambda logits: logits.masked_fill(torch.arange(5) == 4, -torch.inf),
            "where -inf masks a class, return -1e4",
        ),
    ],
)
def test_no_answer_at_all_is_refused(spoil, said) -> None:
    network = five_classes()
    images, labels = problem(network)
    with pytest.raises(ValueError, match=said):
        memory_defense.evaluate(lambda x: spoil(network(x)), images, labels, epsilon=EPSILON, attacks="fgsm")
    masked = lambda x: network(x).masked_fill(torch.arange(5) == 4, -1e4)  # noqa: E731 - the remedy
    record = memory_defense.evaluate(masked, images, labels, epsilon=EPSILON, attacks="fgsm")
    assert record.odd_images == ()


def test_no_gradient_at_all_is_refused_with_a_remedy_that_works() -> None:
    network = five_classes()

    def rooted(images: Tensor) -> Tensor:
        return network(images + (images * 0).sum((1, 2, 3), keepdim=True).sqrt())

    images, labels = problem(network)
    with pytest.raises(ValueError, match=r"NaN or infinite for all 24 images that pgd tried .*square"):
        memory_defense.evaluate(rooted, images, labels, epsilon=EPSILON, attacks="pgd")
    record = memory_defense.evaluate(rooted, images, labels, epsilon=EPSILON, attacks="square")
    assert record.worst_case[0].accuracy < 1


def test_an_answer_that_is_missing_once_in_three_counts_by_the_rule() -> None:
    calls = iter(range(100))

    def sometimes(images: Tensor) -> Tensor:
        logits = torch.tensor([[2.0, 0.0]]).expand(len(images), 2)
        return logits * torch.nan if next(calls) % 3 == 0 else logits

    images, labels = torch.rand(8, 1, 4, 4), torch.zeros(8, dtype=torch.int64)
    wrong, lead = judged(sometimes, images, labels, Submissions(count=3))
    assert wrong.all()
    assert lead.isfinite().all()
    wrong, _ = judged(sometimes, images, labels, Submissions(count=3, rule="majority"))
    assert not wrong.any()


def test_a_stopped_evaluation_remembers_the_odd_images(tmp_path) -> None:
    images, labels = problem(model := Standardised(1e-3))

    class Stops(Told):
        def advance(self, steps: int, text: str = "") -> None:
            if text.startswith("square"):
                raise KeyboardInterrupt

    place, attacks = tmp_path / "r.json", "fgsm,square"
    with pytest.raises(KeyboardInterrupt):
        evaluated(model, images, labels, attacks, place, progress=Stops())
    record, _, _ = evaluated(model, images, labels, attacks, place)
    whole, _, _ = evaluated(model, images, labels, attacks, tmp_path / "whole.json")
    assert record.odd_images == whole.odd_images != ()
    assert record.worst_case == whole.worst_case


def test_a_finished_record_with_an_odd_image_is_taken_for_the_same_models(tmp_path) -> None:
    """It was refused with "no accuracy can be claimed", so nothing that it belongs to could go on."""
    images, labels = problem(model := Standardised(0.0))
    record, _, _ = evaluated(model, images, labels, "fgsm", tmp_path / "r.json")
    check_still_its_own(record, tmp_path / "r.json", model, images, torch.arange(COUNT))
    with pytest.raises(ValueError, match="gives other answers now"):
        check_still_its_own(
            record, tmp_path / "r.json", nn.Sequential(model, nn.Softmax(1)), images, torch.arange(COUNT)
        )


def test_a_gallery_shows_an_image_without_an_answer(tmp_path) -> None:
    images, labels = problem(model := Falling(), 0.9)
    found = attack_all(
        Undefended(model), images, labels, cascade_cases(Undefended(model), parts_of("fgsm"), [Linf(0.03)])
    )
    path = tmp_path / "gallery.safetensors"
    write_gallery(path, Undefended(model), found, classes=tuple("abcde"), name="falling", count=COUNT)
    gallery = Gallery.read(path)
    assert int((gallery.predictions_adversarial == NO_ANSWER).sum()) == 1
    assert {one.adversarial.label for one in examples(gallery, COUNT)} >= {"no answer"}


@pytest.mark.parametrize("whole", [False, True])
def test_an_interrupt_between_two_writes_leaves_no_image_tried_that_was_not(whole, tmp_path, monkeypatch) -> None:
    """The worst case was 1 after going on, where it is below: the images counted as tried, and as standing."""
    model = five_classes()
    images = some_images()[:COUNT]
    labels = model(images).argmax(1)
    plain, _, _ = evaluated(model, images, labels, "pgd", tmp_path / "plain.json", chunk=8)
    add, calls = Broken.add, []

    def interrupted(self: Broken, *arguments: object) -> None:
        calls.append(1)
        if whole:
            add(self, *arguments)  # pyright: ignore
        if len(calls) == 2:
            raise KeyboardInterrupt
        if not whole:
            add(self, *arguments)  # pyright: ignore

    with monkeypatch.context() as patch:
        patch.setattr(Broken, "add", interrupted)
        with pytest.raises(KeyboardInterrupt):
            evaluated(model, images, labels, "pgd", tmp_path / "r.json", chunk=8)
    record, _, _ = evaluated(model, images, labels, "pgd", tmp_path / "r.json", chunk=8)
    assert record.worst_case == plain.worst_case
    assert 0 < record.worst_case[0].accuracy < 1
