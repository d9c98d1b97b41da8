"""What Python callers hand in, one situation after the other: each is right, or says what to write."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import memory_defense
from memory_defense import Options, Record
from memory_defense.evaluation.audit.run import CHECKS
from memory_defense.evaluation.metrics import answers
from memory_defense.randomness import seeded
from workflows.callers import Net, Problem

PROBLEM = Problem.of(24)
SEVERAL = "fgsm, pgd"


def evaluated(model: Any = None, images: Any = None, labels: Any = None, **options: Any) -> Record:
    """Evaluate the canonical problem, but for what is given."""
    return memory_defense.evaluate(
        Net() if model is None else model,
        PROBLEM.images if images is None else images,
        PROBLEM.labels if labels is None else labels,
        **{"epsilon": 0.05, "attacks": SEVERAL} | options,
    )


@pytest.fixture(scope="module")
def plain() -> Record:
    record = evaluated()
    assert 0 < record.worst_case[0].accuracy < record.clean.accuracy < 1, "the problem tells answers apart"
    return record


def same(found: Record, expected: Record, kept: int = 0) -> None:
    """Check that two records claim the same, audit and cascades included, but for times.

    `kept` is how many things of its own the first one's model changes while it answers, which its audit counts.
    """
    audit = tuple(
        one.model_copy(update={"meaning": one.meaning.replace("(0 of them change", f"({kept} of them change")})
        for one in expected.audit
    )
    expected = expected.model_copy(update={"audit": audit})
    quick = {"provenance": expected.provenance, "notes": (), "cascades": ()}
    assert found.model_copy(update=quick) == expected.model_copy(update=quick)
    for one, other in zip(found.cascades, expected.cascades, strict=True):
        assert [stage.model_copy(update={"seconds": 0}) for stage in one.stages] == [
            stage.model_copy(update={"seconds": 0}) for stage in other.stages
        ]


def test_radii_of_numpy_and_torch_are_numbers() -> None:
    radii = [0.02, 0.06, 0.1]
    expected = evaluated(epsilon=radii, attacks="fgsm")
    for given in (
        np.linspace(0.02, 0.1, 3),
        list(np.linspace(0.02, 0.1, 3)),
        torch.tensor(radii),
        np.float32(radii),
    ):
        found = evaluated(epsilon=given, attacks="fgsm").worst_case
        assert [one.accuracy for one in found] == [one.accuracy for one in expected.worst_case]
        assert [one.epsilon for one in found] == pytest.approx(radii, rel=1e-12)
    assert evaluated(epsilon=np.float16(0.1), attacks="fgsm").worst_case == expected.worst_case[2:]


def test_arrays_and_lists_are_the_same_images(plain: Record) -> None:
    same(evaluated(images=PROBLEM.images.numpy(), labels=PROBLEM.labels.numpy()), plain)
    same(evaluated(images=PROBLEM.images.numpy().astype("f8"), labels=PROBLEM.labels.tolist()), plain)
    same(evaluated(images=list(PROBLEM.images), labels=PROBLEM.labels.to(torch.uint8)), plain)


@pytest.mark.parametrize(
    ("labels", "advice"),
    [
        (PROBLEM.labels[:, None], "labels.squeeze(1)"),
        (PROBLEM.labels[None], "labels.squeeze(0)"),
        (nn.functional.one_hot(PROBLEM.labels), "labels.argmax(1)"),
        (torch.stack([PROBLEM.labels, PROBLEM.labels * 7], 1), "labels[:, 0]"),
        (PROBLEM.labels.double(), "labels.long()"),
        (PROBLEM.labels[:, None, None], "labels.reshape(-1)"),
    ],
)
def test_what_is_advised_for_labels_gives_the_labels(labels: Tensor, advice: str) -> None:
    with pytest.raises(ValueError, match="labels") as refused:
        evaluated(labels=labels)
    assert str(refused.value).endswith(advice)
    assert torch.equal(eval(advice, {"labels": labels}), PROBLEM.labels)
    array = labels.numpy()
    with pytest.raises(ValueError, match="labels") as refused:
        evaluated(labels=array)
    assert str(refused.value).endswith(advice.replace("labels", "torch.from_numpy(labels)", 1))
    line = advice.replace("labels", "torch.from_numpy(labels)", 1)
    assert torch.equal(eval(line, {"labels": array, "torch": torch}), PROBLEM.labels)


def pictures(mode: str) -> list[Image.Image]:
    levels = (torch.rand(4, 6, 5, 3, generator=torch.Generator().manual_seed(0)) * 255).byte().numpy()
    return [Image.fromarray(one).convert(mode) for one in levels]


@pytest.mark.parametrize(
    ("images", "shape"),
    [
        (np.stack([np.asarray(one) for one in pictures("RGB")]), (4, 3, 6, 5)),
        (torch.from_numpy(np.stack([np.asarray(one) for one in pictures("RGB")])), (4, 3, 6, 5)),
        (np.stack([np.asarray(one, "f4") for one in pictures("RGB")]), (4, 3, 6, 5)),
        (np.stack([np.asarray(one, "i8") for one in pictures("RGB")])[:, ::-1], (4, 3, 6, 5)),
        (pictures("RGB"), (4, 3, 6, 5)),
        (pictures("L"), (4, 1, 6, 5)),
        (pictures("RGB")[0], (1, 3, 6, 5)),
        ([[[[0, 255], [3, 4]]]] * 2, (2, 1, 2, 2)),
    ],
)
def test_one_line_makes_images_of_grey_levels(images: Any, shape: tuple[int, ...]) -> None:
    """However much there is to do: the message has it in one expression."""
    net = nn.Sequential(nn.Flatten(), nn.LazyLinear(3))
    net(torch.zeros(shape))
    with pytest.raises(ValueError, match="images") as refused:
        evaluated(net, images, [0] * shape[0], attacks="fgsm")
    line = re.search(r"(?:use|axis with) (.+?)( \(grey\).*)?$", str(refused.value))
    assert line is not None, refused.value
    pixels = eval(line[1], {"images": images, "torch": torch, "numpy": np})
    assert pixels.shape == shape
    assert pixels.dtype == torch.float32
    assert 0.9 < pixels.max() <= 1
    assert evaluated(net, pixels, [0] * shape[0], attacks="fgsm").images == shape[0]


def test_inference_mode_is_left(plain: Record) -> None:
    with torch.inference_mode():
        found = evaluated()
        images, labels, born = PROBLEM.images.clone(), PROBLEM.labels.clone(), Net()
        same(evaluated(born, images, labels), plain)
        assert torch.is_inference_mode_enabled()
        assert not (images * 1).requires_grad
    same(found, plain)
    assert found.notes == ("torch.inference_mode() around the call was left, as nothing has a gradient in it",)
    same(evaluated(born, images, labels), plain)
    assert all(one.is_inference() for one in born.parameters()), "the model is as it was"


def test_autocast_is_left_and_said(plain: Record) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        found = evaluated()
        assert torch.is_autocast_enabled("cpu")
    same(found, plain)
    assert "put autocast into its forward" in found.notes[0]

    def under(images: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return Net()(images).float()

    assert evaluated(under).notes == ()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_defaults_change_nothing_but_the_model_finds_them(plain: Record, dtype: torch.dtype) -> None:
    seen: set[torch.dtype] = set()

    def model(images: Tensor) -> Tensor:
        seen.add(torch.get_default_dtype())
        return net(images)

    net = Net()
    torch.set_default_dtype(dtype)
    try:
        found = evaluated(model)
        assert torch.get_default_dtype() == dtype
    finally:
        torch.set_default_dtype(torch.float32)
    same(found, plain, kept=1)
    assert seen == {dtype}


class InPlace(Net):
    """Normalises the very images it is given, and takes it back."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def forward(self, images: Tensor) -> Tensor:
        if self.how == "with its gradient":
            images.sub_(0.25)
        elif self.how == "without":
            with torch.no_grad():
                images.sub_(0.25)
        else:
            images.data.sub_(0.25)
        return super().forward(images + 0.25)


class Shifted(Net):
    """The same without writing."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward((images - 0.25) + 0.25)


@pytest.mark.parametrize("how", ["with its gradient", "without", "where nobody looks"])
def test_a_model_that_writes_to_its_images_gets_the_same_record_and_audit(how: str) -> None:
    before = PROBLEM.images.clone()
    same(evaluated(InPlace(how)), evaluated(Shifted()))
    assert torch.equal(PROBLEM.images, before)


class Checkpointed(Net):
    """Gradient checkpointing left on, the old kind."""

    def forward(self, images: Tensor) -> Tensor:
        return checkpoint(super().forward, images, use_reentrant=True)  # pyright: ignore


def test_reentrant_checkpoints_are_differentiated(plain: Record) -> None:
    net = Checkpointed()
    same(evaluated(net), plain)
    assert all(one.grad is None for one in net.parameters())


class Counted(nn.Module):
    """Train mode matters, and asking in it leaves traces."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.BatchNorm2d(1), Net())

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images)


def test_a_model_in_train_mode_is_as_before_and_so_are_its_statistics() -> None:
    model, calm = Counted().train(), Counted().eval()
    before = {name: one.clone() for name, one in model.state_dict().items()}
    same(evaluated(model), evaluated(calm))
    assert model.training
    assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())


GLOBAL = Counted()


def by_a_global_name(images: Tensor) -> Tensor:
    """Call what a script's function finds by its name."""
    return GLOBAL(images)


def test_a_model_behind_a_global_name_is_judged_in_eval_mode_too() -> None:
    expected = evaluated(Counted().eval())
    GLOBAL.train()
    for model in (by_a_global_name, lambda images: by_a_global_name(images)):  # noqa: PLW0108 - two names away
        found = evaluated(model)
        assert (found.clean, found.worst_case) == (expected.clean, expected.worst_case)
    assert GLOBAL.training
    assert torch.equal(GLOBAL.net[0].running_mean, torch.zeros(1)), "no statistics were gathered"


def test_a_buffer_that_the_next_answer_overwrites_is_copied() -> None:
    buffer, net = torch.zeros(4096, 3), Net()

    def model(images: Tensor) -> Tensor:
        answer = buffer[: len(images)]
        return answer.copy_(net(images).detach())

    many = Problem.of(140).images  # more than the judge asks about at once
    assert torch.equal(answers(model, many).argmax(1), net(many).argmax(1))


def test_modules_without_modes_are_evaluated(plain: Record) -> None:
    shown = torch.rand(2, 1, 4, 4)
    frozen = torch.jit.freeze(torch.jit.trace(Net(), shown))
    found = evaluated(frozen)
    assert (found.clean, found.worst_case) == (plain.clean, plain.worst_case)
    batch = ({0: torch.export.Dim("batch")},)
    found = evaluated(torch.export.export(Net(), (shown,), dynamic_shapes=batch).module())
    assert (found.clean, found.worst_case) == (plain.clean, plain.worst_case)
    found = evaluated(torch.export.export(Net(), (shown,)).module())
    assert (found.clean, found.worst_case) == (plain.clean, plain.worst_case)
    assert found.notes == ("every pass had exactly 2 images: the model does not take every number",)


class Settings:
    """A plain object that holds a net, as configurations do."""

    def __init__(self) -> None:
        self.net = _with_dropout()


def _with_dropout() -> nn.Module:
    with seeded(0, "dropout"):
        layers = (nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(16, 3))
        return nn.Sequential(*layers).train()


SETTINGS, LISTED = Settings(), [_with_dropout()]


@pytest.mark.parametrize(
    "model",
    [
        lambda images: 1 * SETTINGS.net(images),
        lambda images: sum(one(images) for one in LISTED),
        lambda images, net=LISTED[0]: net(images),
    ],
    ids=["settings", "list", "default argument"],
)
def test_a_net_that_nothing_leads_to_is_judged_in_eval_mode_and_stays_as_it_was(model) -> None:
    """It was attacked in train mode without a word, and its running statistics stayed changed."""
    plain, images = _with_dropout(), Problem.of(16).images
    labels = plain.eval()(images).argmax(1)
    expected = memory_defense.evaluate(plain, images, labels, epsilon=0.05, attacks="pgd")
    before = {name: one.clone() for one in (SETTINGS.net, LISTED[0]) for name, one in one.state_dict().items()}
    found = memory_defense.evaluate(model, images, labels, epsilon=0.05, attacks="pgd")
    assert (found.clean, found.worst_case) == (expected.clean, expected.worst_case)
    assert found.clean.accuracy == 1
    assert found.notes[0].startswith("1 module that the model calls cannot be found in it")
    for net in (SETTINGS.net, LISTED[0]):
        assert all(one.training for one in net.modules())
        assert all(torch.equal(one, before[name]) for name, one in net.state_dict().items())


class Pair(nn.Linear):
    """Returns its bias beside, as layers do that are shared out over processes."""

    def forward(self, images: Tensor) -> Any:
        return super().forward(images), self.bias


class Pairs(nn.Module):
    """A net of such a layer."""

    def __init__(self) -> None:
        super().__init__()
        with seeded(0, "pairs"):
            self.layer = Pair(16, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.layer(images.flatten(1))[0]


NET = Net()


@pytest.mark.parametrize(
    "model", [Pairs(), torch.func.vmap(lambda image: NET(image[None])[0])], ids=["tuple", "vmap"]
)
def test_the_audit_takes_layers_of_any_kind(model) -> None:
    """It raised after the attacks, so that no record was ever written."""
    images = Problem.of(16).images
    found = memory_defense.evaluate(model, images, model(images).argmax(1), epsilon=0.05, attacks="pgd")
    assert found.clean.accuracy == 1
    assert not [line.meaning for line in found.audit if "itself failed" in line.meaning]


def test_a_check_that_fails_by_itself_loses_no_evaluation(monkeypatch) -> None:
    def fails(findings: object) -> None:
        raise KeyError("odd")

    monkeypatch.setitem(CHECKS, "zero-margin", fails)
    images = Problem.of(8).images
    found = memory_defense.evaluate(Net(), images, Net()(images).argmax(1), epsilon=0.05, attacks="pgd")
    (line,) = (one for one in found.audit if "itself failed" in one.meaning)
    assert (line.verdict, line.meaning) == ("not run", "not run: the check itself failed (KeyError: 'odd')")


def test_names_that_mean_something_else_in_a_model_do_no_harm() -> None:
    class Other(Net):
        surrogates: Any = ()

    class Asks(Net):
        def surrogates(self, images: Tensor) -> Tensor:
            return images

    class Lists(Net):
        def surrogates(self) -> Any:
            return [self]

    images = Problem.of(8).images
    labels = Net()(images).argmax(1)
    expected = memory_defense.evaluate(Net(), images, labels, epsilon=0.05, attacks="pgd")
    for model in (Other(), Asks(), Lists()):
        found = memory_defense.evaluate(model, images, labels, epsilon=0.05, attacks="pgd")
        assert found.worst_case == expected.worst_case


def test_a_batch_size_beyond_all_images_takes_no_memory_for_it() -> None:
    images = Problem.of(16).images
    labels = Net()(images).argmax(1)
    found = [
        memory_defense.evaluate(
            Net(), images, labels, epsilon=0.05, attacks="fgsm,square", options=Options(batch_size=size)
        ).worst_case
        for size in (64, 10**9)
    ]
    assert found[0] == found[1]


@pytest.mark.parametrize("count", [16, 24, 20])
def test_a_program_exported_for_just_these_images_is_evaluated(count) -> None:
    images = Problem.of(count).images
    labels = Net()(images).argmax(1)
    program = torch.export.export(Net(), (images,)).module()
    found = memory_defense.evaluate(program, images, labels, epsilon=0.05, attacks="pgd")
    assert found.clean.accuracy == 1
    assert "every pass had exactly" in found.notes[0]


def test_a_model_that_cannot_be_asked_for_a_gradient_is_refused_or_audited() -> None:
    def model(images: Tensor) -> Tensor:
        return net(torch.from_numpy(images.numpy()))

    net = Net()
    with pytest.raises(ValueError, match=r"but only without a gradient.*square or hop-skip-jump"):
        evaluated(model)
    record = evaluated(model, attacks="square")
    failed = {line.check for line in record.audit if line.verdict == "fail"}
    assert "the cross-entropy has a gradient" in failed
    assert len(record.audit) == len(CHECKS), "the audit went to its end"


def test_options_are_whole_before_anything_runs() -> None:
    for wrong, said in (
        ({"submissions": 2.0}, "submissions is 2.0, expected a whole number"),
        ({"seed": 1.5}, "seed is 1.5, expected a whole number"),
        ({"batch_size": "8"}, "batch_size is '8', expected a whole number"),
        ({"ids": np.zeros(3)}, "ids is array.*expected whole numbers"),
        ({"progress": print}, "progress is <built-in function print>, expected None or an object"),
        ({"device": "gpu"}, "device is 'gpu', expected one such as 'cpu'"),
        ({"resume": "no"}, "resume is 'no', expected True or False"),
        ({"dataset": 3}, "dataset is 3, expected a text"),
    ):
        with pytest.raises(ValueError, match=said):
            Options(**wrong)
    with pytest.raises(ValueError, match="ids has 3 positions, but there are 24 images"):
        evaluated(options=Options(ids=[0, 1, 2]))
    chosen = Options(seed=np.int64(3), submissions=np.int64(2), batch_size=np.int64(8), ids=np.arange(24))
    assert (type(chosen.seed), chosen.repetitions.count, type(chosen.batch_size)) == (int, 2, int)
    assert torch.equal(chosen.numbers(24), torch.arange(24))


@pytest.mark.parametrize("given", [3, b"record.json", ["record.json"], True, nn.Flatten()])
def test_a_path_is_a_text_or_a_path(given: Any) -> None:
    with pytest.raises(ValueError, match=r"out is .*, expected a path, such as 'record.json'"):
        evaluated(out=given)
    with pytest.raises(ValueError, match=r"directory is .*, expected a path, such as 'runs/demo'"):
        memory_defense.load(given)
    with pytest.raises(ValueError, match=r"path is .*, expected a path, such as 'record.json'"):
        Record.read(given)


def test_a_record_is_read_from_the_path_as_a_text(plain: Record, tmp_path) -> None:
    plain.write(str(tmp_path / "record.json"))
    assert Record.read(str(tmp_path / "record.json")) == plain
