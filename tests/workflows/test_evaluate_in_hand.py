"""What a researcher has in hand: options by keyword, attacks of their own, loaders, surrogates of all kinds."""

from __future__ import annotations

import functools
from dataclasses import fields
from typing import get_type_hints

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import memory_defense
from memory_defense.attacks import Ddn, Fgsm, Pgd
from memory_defense.data.images import ImageSet
from memory_defense.evaluation.options import OptionFields, Options
from memory_defense.evaluation.record import Record
from workflows.test_evaluate import problem


def one_step(model, images, labels, ball, draws):
    """Fast gradient sign, by hand."""
    del draws
    leaf = images.requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(model(leaf), labels), leaf)
    return ball.project(leaf + ball.epsilon * gradient.sign(), images).detach()


def judged(*given, **options) -> Record:
    model, images, labels = problem()
    return memory_defense.evaluate(model, *(given or (images, labels)), epsilon=0.02, **options)


def numbers(record: Record) -> list[float]:
    return [record.clean.accuracy, *(one.accuracy for one in record.worst_case)]


def test_every_option_is_a_keyword_too() -> None:
    assert list(OptionFields.__annotations__) == [one.name for one in fields(Options)]
    ours, theirs = get_type_hints(OptionFields), get_type_hints(Options)
    assert {name for name in ours if ours[name] != theirs[name]} == {"progress"}


def test_keywords_do_what_options_do(tmp_path) -> None:
    wanted = {"seed": 3, "batch_size": 7, "defense": "mine", "dataset": "noise", "ids": range(100, 124)}
    by_keyword = judged(attacks="pgd", out=tmp_path / "a.json", **wanted)
    by_options = judged(attacks="pgd", out=tmp_path / "b.json", options=Options(**wanted))
    assert numbers(by_keyword) == numbers(by_options)
    assert (by_keyword.defense, by_keyword.provenance.seed) == ("mine", 3)
    mixed = judged(attacks="pgd", options=Options(seed=1, defense="other"), defense="mine")
    assert (mixed.defense, mixed.provenance.seed) == ("mine", 1)


def test_an_unknown_keyword_is_named() -> None:
    with pytest.raises(ValueError, match="'batch_size'"):
        judged(batchsize=3)
    model, images, labels = problem()
    with pytest.raises(ValueError, match="'seed'"):
        memory_defense.certify(model, images, labels, radii=0.1, smoothing=0.1, sed=3)


def test_progress_prints(capsys) -> None:
    _, images, labels = problem()
    shuffled = DataLoader(TensorDataset(images, labels), 5, shuffle=True)
    judged(shuffled, attacks="fgsm", progress=True)
    said = capsys.readouterr()
    assert "the loader shuffles" in said.err
    assert said.out == ""
    judged(shuffled, attacks="fgsm", progress=False)
    assert capsys.readouterr().err == ""


def test_certify_takes_keywords_and_loaders() -> None:
    model, images, labels = problem()
    smoothing = memory_defense.Smoothing(sigma=0.1, samples=50)
    ours = memory_defense.certify(model, images, labels, radii=0.05, smoothing=smoothing, options=Options(seed=2))
    loader = DataLoader(TensorDataset(images, labels), 5)
    theirs = memory_defense.certify(model, loader, radii=0.05, smoothing=smoothing, seed=2)
    assert [one.accuracy for one in ours.certified] == [one.accuracy for one in theirs.certified]


def test_an_attack_with_settings_is_the_one_that_runs() -> None:
    record = judged(attacks=["fgsm", Pgd(steps=7, loss="margin"), Pgd(steps=3), Pgd(steps=3)])
    assert record.recipe == "attacks: fgsm,pgd(steps=7, loss='margin'),pgd(steps=3),pgd(steps=3)"
    names = {stage.attack for cascade in record.cascades for stage in cascade.stages}
    assert names == {"fgsm", "pgd", "pgd (2)"}
    assert judged(attacks=Pgd(steps=7)).recipe == "attacks: pgd(steps=7)"
    assert judged(attacks=Pgd()).recipe == "attacks: pgd"


def test_a_function_is_an_attack_and_its_result_is_checked() -> None:
    by_hand, by_us = judged(attacks=one_step), judged(attacks=Fgsm())
    assert numbers(by_hand) == numbers(by_us)
    assert by_hand.worst_case[0].accuracy < by_hand.clean.accuracy
    assert by_hand.recipe == "attacks: one_step"
    (stage,) = by_hand.cascades[0].stages
    assert stage.attack == "one_step"
    named = judged(attacks={"a step": one_step, "suite": "fgsm"})
    assert [one.attack for one in named.cascades[0].stages] == ["a step", "fgsm"]
    with pytest.raises(ValueError, match=r"too_far returned \d+ of \d+ images outside"):
        judged(attacks=[too_far])


def too_far(model, images, labels, ball, draws):
    del model, labels, ball, draws
    return images + 0.5


class Asking:
    """An attack by queries alone, as an object."""

    gradient_free = True
    norms = ("linf",)

    def __call__(self, model, images, labels, ball, draws):
        steps = ball.epsilon * (2 * draws.uniform(*images.shape[1:]) - 1).sign()
        moved = ball.project(images + steps.to(images), images)
        with torch.no_grad():
            wrong = model(moved).argmax(1) != labels
        return torch.where(wrong[:, None, None, None], moved, images)


def test_an_object_says_what_it_needs() -> None:
    model, images, labels = problem()

    def silent(x: Tensor) -> Tensor:
        with torch.no_grad():
            return model(x)

    record = memory_defense.evaluate(silent, images, labels, epsilon=0.05, attacks=[Asking()])
    assert record.cascades[0].stages[0].attack == "Asking"
    with pytest.raises(ValueError, match="Asking does not work in l2 balls"):
        judged(attacks=[Asking()], norm="l2")
    with pytest.raises(ValueError, match="ddn does not work in linf balls"):
        judged(attacks=["fgsm", Ddn()])


def test_another_text_of_the_function_begins_anew(tmp_path) -> None:
    from memory_defense.attacks.own import OwnAttack

    texts = (
        "def mine(model, images, labels, ball, draws): return images",
        "def mine(m, x, y, b, d): return x * 1.0",
    )
    prints = []
    for text in texts:
        names: dict[str, object] = {}
        exec(text, names)
        prints.append(OwnAttack(names["mine"]).sha256)
    assert prints[0] != prints[1]
    assert OwnAttack(one_step).sha256 == OwnAttack(one_step).sha256 != OwnAttack(too_far).sha256
    stronger, weaker = (functools.partial(stepping, factor=factor) for factor in (1.0, 0.5))
    assert OwnAttack(stronger).sha256 != OwnAttack(weaker).sha256
    assert OwnAttack(stronger).sha256 == OwnAttack(functools.partial(stepping, factor=1.0)).sha256
    assert OwnAttack(made(1.0)).sha256 != OwnAttack(made(0.5)).sha256
    assert OwnAttack(made(1.0)).sha256 == OwnAttack(made(1.0)).sha256


def stepping(model, images, labels, ball, draws, *, factor):
    del model, labels, ball, draws
    return images * factor


def made(factor):
    def mine(model, images, labels, ball, draws):
        return stepping(model, images, labels, ball, draws, factor=factor)

    return mine


class Stream(IterableDataset):
    def __init__(self, pairs) -> None:
        self.pairs = pairs

    def __iter__(self):
        return iter(self.pairs)


@pytest.mark.parametrize("form", ["loader", "dataset", "stream", "image set"])
def test_pairs_of_images_and_labels(form) -> None:
    _, images, labels = problem()
    pairs = TensorDataset(images, labels)
    given = {
        "loader": DataLoader(pairs, 7),
        "dataset": pairs,
        "stream": Stream(list(pairs)),
        "image set": ImageSet(images, labels, torch.arange(len(labels))),
    }[form]
    assert numbers(judged(given, attacks="pgd")) == numbers(judged(attacks="pgd"))


def test_a_loader_that_shuffles_is_said() -> None:
    _, images, labels = problem()
    record = judged(DataLoader(TensorDataset(images, labels), 5, shuffle=True), attacks="fgsm")
    assert any("the loader shuffles" in note for note in record.notes)
    assert not any("shuffles" in note for note in judged(DataLoader(TensorDataset(images, labels), 5)).notes)


class TwoHeads(nn.Module):
    """Answers with one classifier, and publishes another one, which decides otherwise."""

    transfer_knowledge = frozenset({"oblivious"})

    def __init__(self) -> None:
        super().__init__()
        self.net = problem()[0]
        self.plain = nn.Sequential(nn.Flatten(), nn.Linear(64, 5))

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images)

    def surrogates(self):
        return {"end-to-end": self.net, "oblivious": self.plain}


@pytest.mark.parametrize("attacks", ["fast", "pgd", "square,fgsm"])
def test_every_published_surrogate_is_attacked(attacks) -> None:
    _, images, labels = problem()
    record = memory_defense.evaluate(TwoHeads(), images, labels, epsilon=0.02, attacks=attacks)
    stages = record.cascades[0].stages
    assert {"end-to-end", "oblivious"} <= {one.knowledge for one in stages}
    assert sum(one.knowledge == "oblivious" for one in stages) == 1
