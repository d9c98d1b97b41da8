from __future__ import annotations

import sys

import pytest
import torch
from safetensors.torch import save_model
from torch import nn

from memory_defense.systems.own_model import build_user_model
from memory_defense.tensorfiles import write_tensors

SIZES = {"classes": 5, "channels": 3, "size": 6}

SOURCE = '''
"""A module as a user writes it."""
import torch
from torch import nn

given = {}


class Net(nn.Module):
    def __init__(self, classes, channels=3, *, size=6):
        super().__init__()
        self.body = nn.Linear(channels * size * size, classes)

    def forward(self, images):
        return self.body(images.flatten(1))


class Plain(nn.Module):
    def forward(self, images):
        return images.flatten(1)[:, :5] * 1


class Shared(Net):
    def __init__(self):
        super().__init__(5)
        self.again = self.body


class Lazy(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.LazyLinear(5))


class Answers(nn.Module):
    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, images):
        return self.answer(images, images.flatten(1)[:, :5])


def build(**options):
    given.update(options)
    return Net(**options)


def two(size, classes):
    given.update(size=size, classes=classes)
    return Net(classes, size=size)


def none():
    given.clear()
    return Net(5)


def needs(classes, depth, /, width, *, channels):
    raise AssertionError("never called")


def broken():
    raise KeyError("no such layer")


def number():
    return 3


def leave():
    raise SystemExit(2)


class Nest:
    build = staticmethod(none)


instance = Net(5)
constant = 3
dropping = nn.Sequential(nn.Flatten(), nn.Dropout(0.9), nn.Linear(108, 5))
good = Answers(lambda x, y: y * 1)
wide = Answers(lambda x, y: x.flatten(1)[:, :7])
flat = Answers(lambda x, y: y.argmax(1))
whole = Answers(lambda x, y: y.long())
both = Answers(lambda x, y: (y, y))
nan = Answers(lambda x, y: y / 0 - y / 0)
hard = Answers(lambda x, y: (y > 0.5).float())
writes = Answers(lambda x, y: x.zero_().flatten(1)[:, :5])
double = nn.Sequential(nn.Flatten(), nn.Linear(108, 5)).double()


def descend(images, _):
    moving = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(moving.square().sum(), moving)
    return gradient.flatten(1)[:, :5]


gradients = Answers(descend)
'''


@pytest.fixture
def users(tmp_path, monkeypatch):
    """Put the user's module into the current directory, and forget it afterwards."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "users_models").mkdir()
    (tmp_path / "users_models/__init__.py").write_text("")
    (tmp_path / "users_models/net.py").write_text(SOURCE)
    yield tmp_path
    for name in [name for name in sys.modules if name.split(".")[0].startswith("users_")]:
        del sys.modules[name]


def _build(attribute: str, **options) -> nn.Module:
    return build_user_model(f"users_models.net:{attribute}", **(SIZES | options))


def _given() -> dict[str, int]:
    return sys.modules["users_models.net"].given


@pytest.mark.parametrize(
    ("attribute", "given"), [("build", SIZES), ("two", {"classes": 5, "size": 6}), ("none", {}), ("Nest.build", {})]
)
def test_factory_gets_what_its_signature_has(users, attribute, given):
    model = _build(attribute)
    assert _given() == given
    assert not model.training
    assert model(torch.rand(2, 3, 6, 6)).shape == (2, 5)


def test_class_instance_and_class_without_constructor_are_taken(users):
    assert type(_build("Net")).__name__ == "Net"
    assert _build("instance") is sys.modules["users_models.net"].instance
    images = torch.rand(2, 3, 6, 6)
    assert torch.equal(_build("Plain")(images), images.flatten(1)[:, :5])


def test_sizes_reach_the_model(users):
    model = build_user_model("users_models.net:Net", classes=3, channels=1, size=9)
    assert model.body.weight.shape == (3, 81)


def test_import_leaves_the_path_as_it_was(users):
    before = list(sys.path)
    _build("none")
    with pytest.raises(ValueError, match="no such layer"):
        _build("broken")
    assert sys.path == before


def test_model_is_in_eval_mode_and_repeats_itself(users):
    model, images = _build("dropping"), torch.rand(4, 3, 6, 6)
    assert torch.equal(model(images), model(images))


def test_unweighted_factory_draws_from_the_seed_alone(users):
    torch.manual_seed(1)
    first, state = _build("Net").body.weight, torch.get_rng_state()
    torch.manual_seed(2)
    assert torch.equal(_build("Net").body.weight, first)
    assert not torch.equal(_build("Net", seed=1).body.weight, first)
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state), "the global state is left alone"


def test_weights_are_loaded(users):
    other = _build("Net", seed=1)
    write_tensors(users / "w.safetensors", other.state_dict())
    model = _build("Net", weights="w.safetensors")
    images = torch.rand(2, 3, 6, 6)
    assert torch.equal(model(images), other(images))
    halves = {name: value.half() for name, value in other.state_dict().items()}
    write_tensors(users / "w.safetensors", halves)
    assert torch.equal(_build("Net", weights=users / "w.safetensors").body.weight, halves["body.weight"].float())


def test_shared_weights_may_be_there_once(users):
    other = _build("Shared", seed=1)
    save_model(other, str(users / "w.safetensors"))
    model = _build("Shared", weights=users / "w.safetensors")
    assert torch.equal(model.body.weight, other.body.weight)
    assert model.again is model.body


def test_lazy_layers_are_made_before_weights_are_loaded(users):
    other = _build("Lazy", seed=1)
    write_tensors(users / "w.safetensors", other.state_dict())
    assert torch.equal(_build("Lazy", weights=users / "w.safetensors")[1].weight, other[1].weight)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"body.bias": None}, "1 missing: body.bias"),
        ({"module.body.bias": torch.zeros(5)}, "1 unexpected: module.body.bias"),
        (
            {"body.weight": torch.zeros(5, 107)},
            r"body.weight is float32 \(5, 107\), the model's is float32 \(5, 108\)",
        ),
        ({"body.bias": torch.zeros(5, dtype=torch.int32)}, r"body.bias is int32 \(5,\), the model's is float32"),
        ({f"x{n}": torch.zeros(1) for n in range(8)}, "8 unexpected: x0, x1, x2, x3, x4 and 3 more; save"),
    ],
)
def test_weights_that_do_not_fit_are_named(users, change, said):
    tensors = _build("Net").state_dict() | change
    write_tensors(users / "w.safetensors", {name: value for name, value in tensors.items() if value is not None})
    with pytest.raises(ValueError, match=rf"w\.safetensors does not fit users_models\.net:Net: .*{said}"):
        _build("Net", weights=users / "w.safetensors")


def test_pickles_and_absent_weights_are_refused(users):
    torch.save(_build("Net").state_dict(), users / "w.safetensors")
    with pytest.raises(ValueError, match="is a pickle"):
        _build("Net", weights=users / "w.safetensors")
    with pytest.raises(ValueError, match=r"none\.safetensors does not exist"):
        _build("Net", weights=users / "none.safetensors")


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("users_models.net", r"write package\.module:attribute, such as users_models\.net:build"),
        ("users_models/net.py", r"such as users_models\.net:build"),
        ("users_models/net.py:Net", r"such as users_models\.net:Net"),
        ("", "names no classifier; write package.module:attribute$"),
        ("a:b:c", "names no classifier"),
        ("a b:c", "names no classifier"),
        ("users_models.nte:build", r"there is no module users_models\.nte in "),
        ("users_none:build", "there is no module users_none in .* or among the installed packages"),
        ("users_models.net.Net:build", r"there is no module users_models\.net\.Net"),
        ("users_models.net:biuld", "has no biuld; it has: .*Net"),
        ("users_models.net:Nest.biuld", r"has no Nest\.biuld \(no biuld\); it has: build"),
        ("users_models.net:constant", "is int, expected an nn.Module, a class of one or a function"),
        ("users_models.net:number", "returned int, expected an nn.Module"),
        ("users_models.net:needs", "needs classes, depth, width, but only classes, channels, size are given"),
    ],
)
def test_places_that_name_no_classifier_are_refused(users, place, said):
    with pytest.raises(ValueError, match=said):
        build_user_model(place, **SIZES)


@pytest.mark.parametrize(
    ("source", "cause", "said"),
    [
        ("import users_absent", ModuleNotFoundError, "importing users_bad raised .*users_absent"),
        ("def f(:", SyntaxError, "importing users_bad raised SyntaxError"),
        ("1 / 0", ZeroDivisionError, "importing users_bad raised ZeroDivisionError"),
        ("raise SystemExit(3)", SystemExit, "importing users_bad raised SystemExit: 3"),
    ],
)
def test_what_a_module_raises_is_kept_as_the_cause(users, source, cause, said):
    (users / "users_bad.py").write_text(source)
    with pytest.raises(ValueError, match=said) as raised:
        build_user_model("users_bad:build", **SIZES)
    assert isinstance(raised.value.__cause__, cause)


@pytest.mark.parametrize(
    ("attribute", "cause", "said"),
    [
        ("broken", KeyError, r"net:broken\(\) raised KeyError: 'no such layer'"),
        ("leave", SystemExit, "raised SystemExit: 2"),
        ("double", RuntimeError, r"net:double on images \(3, 3, 6, 6\) in \[0, 1\] raised RuntimeError"),
    ],
)
def test_what_the_factory_and_the_model_raise_is_kept_as_the_cause(users, attribute, cause, said):
    with pytest.raises(ValueError, match=said) as raised:
        _build(attribute)
    assert isinstance(raised.value.__cause__, cause)


@pytest.mark.parametrize(
    ("attribute", "said"),
    [
        ("wide", r"answers with shape \(3, 7\), expected \(3, 5\): 3 images and 5 classes"),
        ("flat", r"answers with shape \(3,\), expected \(3, 5\)"),
        ("whole", "answers with torch.int64, expected float logits"),
        ("both", "answers with tuple, expected logits"),
        ("nan", "answers with 15 NaN or infinite logits"),
        ("writes", "writes to the images it is given"),
    ],
)
def test_answers_that_are_no_logits_are_refused(users, attribute, said):
    with pytest.raises(ValueError, match=rf"net:{attribute} {said}"):
        _build(attribute)


@pytest.mark.parametrize("attribute", ["good", "hard", "gradients"])
def test_gradients_are_neither_needed_nor_forbidden(users, attribute):
    _build(attribute)


def test_images_and_classes_are_never_equally_many(users):
    with pytest.raises(ValueError, match=r"shape \(4, 7\), expected \(4, 3\)"):
        _build("wide", classes=3)
