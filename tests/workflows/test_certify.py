"""Certifying from Python: the record, its file of every image, stopping and going on, and what is refused."""

from __future__ import annotations

from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest
import torch
from torch import nn

import memory_defense
from certificates.proving import Planes, images_of
from memory_defense import Options, Record, Smoothing
from memory_defense.certificates.smoothing import LATTICE, off_lattice
from memory_defense.defenses.interval_proof import proving
from memory_defense.evaluation.certifying import BySmoothing, certify_all
from memory_defense.tensorfiles import read_tensors

SMOOTHING = Smoothing(sigma=0.3, samples=300, selection=50)
RADII = [0.0, 0.1, 0.3]


class Stops:
    """A progress that presses Ctrl-C after some images."""

    def __init__(self, after: int) -> None:
        self.left = after

    def begin(self, what: str, total: int) -> None: ...

    def note(self, text: str) -> None: ...

    def advance(self, steps: int, text: str = "") -> None:
        self.left -= steps
        if self.left < 0:
            raise KeyboardInterrupt


def certified(out: Path | None = None, **options: object) -> Record:
    images = images_of(12)
    labels = Planes()(images).argmax(1)
    labels[0] = (labels[0] + 1) % 3
    chosen = Options(**options)  # pyright: ignore[reportArgumentType]
    return memory_defense.certify(
        Planes(), images, labels, radii=RADII, smoothing=SMOOTHING, out=out, options=chosen
    )


def untimed(record: Record) -> dict[str, object]:
    found = record.model_dump(exclude={"provenance", "certificates_sha256"})
    for one in found["certified"]:
        del one["seconds"]
    return found


def test_a_record_says_what_is_certified_and_what_the_gate_makes_of_it(tmp_path) -> None:
    record = certified(tmp_path / "c.json")
    assert Record.read(tmp_path / "c.json") == record
    tensors, metadata = read_tensors(tmp_path / "c.certificates.safetensors")
    assert metadata["method"] == "smoothing"
    right = tensors["answers"] == tensors["labels"]
    for one in record.certified:
        assert (one.method, one.norm, one.n, one.alpha, one.sigma) == ("smoothing", "l2", 300, 0.001, 0.3)
        assert one.accuracy == float((right & (tensors["radii"] >= one.epsilon)).double().mean())
    (nothing, near, far) = record.certified
    assert nothing.gate is None
    for one in (near, far):
        assert one.gate is not None
        accepted = (tensors["answers"] >= 0) & (tensors["radii"] >= one.epsilon / 2)
        assert one.gate.right_or_flagged.accuracy == float((right & accepted).double().mean())
        assert one.gate.clean_accepted.accuracy == float(accepted.double().mean())
        assert one.gate.clean_wrong_accepted.accuracy == float((accepted & ~right).double().mean())
        assert one.gate.right_or_flagged.accuracy >= one.accuracy
    assert record.clean.accuracy == float((tensors["guesses"] == tensors["labels"]).double().mean())
    assert bool(tensors["clean"][1:].all())
    assert not tensors["clean"][0]


def verdicts(record: Record) -> dict[str, tuple[str, float | None]]:
    return {one.check: (one.verdict, one.value) for one in record.audit}


def test_the_audit_says_whether_so_few_copies_can_say_it_and_what_the_lattice_costs() -> None:
    images, model = images_of(3), Planes()
    labels, enough, exact = (
        model(images).argmax(1),
        "n large enough for the radius claimed",
        "sums of image and noise are exact",
    )

    def audited(radii: list[float], **smoothing: float) -> dict[str, tuple[str, float | None]]:
        chosen = Smoothing(**{"sigma": 0.3, "samples": 300, "selection": 20} | smoothing)  # pyright: ignore[reportArgumentType]
        return verdicts(memory_defense.certify(model, images, labels, radii=radii, smoothing=chosen))

    most = 0.3 * NormalDist().inv_cdf(0.001 ** (1 / 300))
    verdict, value = audited([0.1, 0.5])[enough]
    assert verdict == "pass"
    assert value == pytest.approx(0.5 / most, rel=1e-6)
    assert audited([1.01 * most])[enough][0] == "fail"
    assert audited([0.0])[enough] == ("not run", None)
    assert audited([0.1], samples=5)[enough] == ("fail", None)  # five copies prove nothing at all
    assert audited([0.1])[exact] == ("pass", pytest.approx(max(map(off_lattice, images))))
    assert audited([0.1], sigma=0.9 / LATTICE)[exact][0] == "fail"
    assert audited([0.1], sigma=50.0)[exact][0] == "fail"
    assert memory_defense.certify(model, images, labels, radii=[0.1]).audit == ()


def test_a_model_s_own_proof_is_taken_as_it_is() -> None:
    images = images_of(20)
    model = Planes()
    labels, radii = model.certificates(images)
    middle = float(radii.median())
    record = memory_defense.certify(model, images, labels, radii=[middle])
    (one,) = record.certified
    assert (one.method, one.norm, one.n, one.alpha, one.sigma) == ("distance to a border", "l2", None, None, None)
    assert one.accuracy == float((radii >= middle).double().mean())


def test_smoothing_a_linear_model_never_certifies_more_than_is_true() -> None:
    images, model = images_of(25), Planes()
    labels, true = model.certificates(images)
    found = certify_all(model, images, labels, BySmoothing(model, SMOOTHING, 0), Options())
    assert bool((found.radii <= true + 2e-6).all())
    assert int((found.radii > 0).sum()) > 8


@pytest.mark.parametrize("after", [0, 1, 5, 11])
def test_a_stopped_one_goes_on_and_ends_the_same(tmp_path, after: int) -> None:
    whole, out = certified(tmp_path / "whole.json"), tmp_path / "c.json"
    with pytest.raises(KeyboardInterrupt):
        certified(out, progress=Stops(after))
    assert not out.exists()
    assert (tmp_path / "c.progress.safetensors").is_file()
    again = certified(out)
    assert {**untimed(again), "certificates": ""} == {**untimed(whole), "certificates": ""}
    assert not (tmp_path / "c.progress.safetensors").exists()
    one, other = (read_tensors(tmp_path / f"{name}.certificates.safetensors")[0] for name in ("whole", "c"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_what_was_left_by_something_else_is_refused(tmp_path) -> None:
    out = tmp_path / "c.json"
    with pytest.raises(KeyboardInterrupt):
        certified(out, progress=Stops(5))
    with pytest.raises(ValueError, match="belongs to something else"):
        certified(out, seed=1)
    assert certified(out, seed=1, resume=False).provenance.seed == 1


def test_a_state_of_a_model_that_answers_otherwise_is_refused(tmp_path) -> None:
    """A function's network is in no hash of weights; its answers tell."""
    images, held = images_of(12), {"net": Planes()}
    labels = Planes()(images).argmax(1)

    def ask(progress: object = None) -> Record:
        chosen = Options(progress=progress)  # pyright: ignore[reportArgumentType]
        call = lambda given: held["net"](given)  # noqa: E731, PLW0108
        return memory_defense.certify(
            call, images, labels, radii=RADII, smoothing=SMOOTHING, out=tmp_path / "c.json", options=chosen
        )

    with pytest.raises(KeyboardInterrupt):
        ask(Stops(5))
    held["net"] = Planes(seed=1)
    with pytest.raises(ValueError, match=r"gives other answers now|belongs to something else"):
        ask()


def test_options_and_order_have_no_part_in_an_image_s_result(tmp_path) -> None:
    images, model = images_of(12), Planes()
    labels = model(images).argmax(1)
    whole = certify_all(model, images, labels, BySmoothing(model, SMOOTHING, 0), Options())
    order = torch.tensor([3, 11, 0, 7])
    part = certify_all(model, images[order], labels[order], BySmoothing(model, SMOOTHING, 0), Options(ids=order))
    for name in ("guesses", "answers", "radii", "top", "asked"):
        assert torch.equal(getattr(whole, name)[order], getattr(part, name)), name


def test_the_model_is_left_as_it_was() -> None:
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(25), nn.Linear(25, 3)).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    images = images_of(3)
    memory_defense.certify(model, images, torch.tensor([0, 1, 2]), radii=0.1, smoothing=SMOOTHING)
    assert model.training
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in before.items())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"smoothing": None}, "proves nothing by itself"),
        ({"smoothing": -1.0}, "sigma is -1.0"),
        ({"smoothing": "0.25"}, "smoothing is '0.25', expected a standard deviation"),
        ({"radii": [-0.1]}, "-0.1"),
        ({"radii": "0.1"}, "a number, not a text"),
        ({"labels": torch.tensor([0.5] * 4)}, "labels"),
    ],
)
def test_what_makes_no_sense_is_refused(change: dict[str, object], said: str) -> None:
    images = images_of(4)
    net = nn.Sequential(nn.Flatten(), nn.Linear(25, 3))
    given: dict[str, object] = {
        "labels": torch.zeros(4, dtype=torch.int64),
        "radii": 0.1,
        "smoothing": 0.25,
        **change,
    }
    with pytest.raises(ValueError, match=said):
        memory_defense.certify(net, images, **given)  # pyright: ignore[reportArgumentType, reportCallIssue]


def test_an_answer_without_a_proof_is_still_an_answer() -> None:
    """What ends early proves nothing, but the clean accuracy counts what was answered."""
    images, model = images_of(30), Planes()
    labels = model(images).argmax(1)
    far = memory_defense.certify(model, images, labels, radii=1.5, smoothing=SMOOTHING)
    near = memory_defense.certify(model, images, labels, radii=[0, 1.5], smoothing=SMOOTHING)
    assert far.clean == near.clean
    assert near.certified[0].accuracy < near.clean.accuracy
    assert near.certified[0].accuracy > 0.4, "at radius 0 nothing ends early"


def test_other_radii_do_not_go_on_from_what_was_proven_for_these(tmp_path) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(25, 3))
    images = images_of(200)
    labels = net(images).argmax(1)

    def proof(radius: float, method: str, progress: object = None) -> Record:
        chosen = Options(progress=progress)  # pyright: ignore[reportArgumentType]
        model = proving(net, radii=[radius], method=method)  # pyright: ignore[reportArgumentType]
        return memory_defense.certify(model, images, labels, radii=radius, out=tmp_path / "c.json", options=chosen)

    with pytest.raises(KeyboardInterrupt):
        proof(0.01, "ibp", Stops(70))
    for radius, method in ((0.02, "ibp"), (0.01, "crown-ibp")):
        with pytest.raises(ValueError, match="belongs to something else"):
            proof(radius, method)
    assert proof(0.01, "ibp").images == 200


@pytest.mark.parametrize("sigma", [1, np.float32(0.5), torch.tensor(0.5)])
def test_a_standard_deviation_may_be_any_number(sigma: object) -> None:
    images, model = images_of(2), Planes()
    labels = model(images).argmax(1)
    record = memory_defense.certify(model, images, labels, radii=5, smoothing=sigma)  # pyright: ignore
    assert record.certified[0].sigma == float(sigma)  # pyright: ignore
