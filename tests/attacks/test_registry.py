"""The registry: every attack by name, and helpful errors for what is not there."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch

from memory_defense import attacks
from memory_defense.attacks import ATTACKS, NORMS_OF, Pgd, attack
from memory_defense.attacks.suites import ALIASES, SUITES, SuitePart, check_attacks, names_in, parts_of
from memory_defense.attacks.suites import joined as joined_parts
from memory_defense.attacks.words import ATTACKS_IN_WORDS, SUITES_IN_WORDS
from memory_defense.contracts import works_in
from memory_defense.randomness import ImageDraws
from memory_defense.threat import ball


@pytest.mark.parametrize("name", ATTACKS)
def test_every_name_builds_its_attack(name: str) -> None:
    assert attack(name) == ATTACKS[name]()
    assert attack(name, micro_batch=7) == ATTACKS[name](micro_batch=7)
    assert attack(name) != attack(name, micro_batch=7)
    assert hash(attack(name)) == hash(attack(name))


def test_options_reach_the_attack() -> None:
    assert attack("pgd", steps=3, loss="margin") == Pgd(steps=3, loss="margin")


def test_unknown_names_and_options_name_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"unknown attack 'pdg'.*'pgd'.*bim, cw, .*fgsm, .*pgd"):
        attack("pdg")
    with pytest.raises(ValueError, match=r"option of the attack pgd 'step'.*steps"):
        attack("pgd", step=3)
    with pytest.raises(ValueError, match="steps is 0"):
        attack("bim", steps=0)


@pytest.mark.parametrize("name", ATTACKS)
def test_every_class_is_an_attribute_of_the_package(name: str) -> None:
    assert getattr(attacks, ATTACKS[name].__name__) is ATTACKS[name]


def test_an_unknown_attribute_is_none_of_the_package() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Pgdd'"):
        _ = attacks.Pgdd


def test_a_class_of_the_users_own_may_join_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ATTACKS, "mine", Pgd)
    assert attack("mine", steps=2) == Pgd(steps=2)


def test_names_and_suites_are_read_without_torch() -> None:
    code = "import sys; from memory_defense.attacks.suites import ATTACKS, SUITES, check_attacks; "
    code += "check_attacks('pgd,square'); print(len(ATTACKS), len(SUITES), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(len(ATTACKS)), "5", "False"]


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ("pdg", "unknown attack or suite 'pdg'; did you mean 'pgd'"),
        ("fast,all", "unknown attack or suite 'all'"),
        ("", "is empty: ''; write 'fast'"),
        ("pgd,", "is empty: 'pgd,'; write 'pgd'"),
        ("fgsm,,pgd", "is empty: 'fgsm,,pgd'; write 'fgsm,pgd'"),
        ([], r"attacks is \[\], which names none; give 'fast'"),
        (["pgd", ""], "write 'pgd'"),
        (["pgd", 3], "attacks holds 3, expected names"),
        (None, "attacks is None, expected names"),
        ({"pgd"}, "expected names of suites and attacks, such as"),
    ],
)
def test_what_is_neither_a_suite_nor_attacks_is_refused_in_the_same_words(given: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint) as checked:
        check_attacks(given)
    with pytest.raises(ValueError) as asked:
        parts_of(given)
    assert str(checked.value) == str(asked.value)


def test_what_was_typed_is_never_what_was_meant() -> None:
    """Every near miss is answered with one name that can be given, and no name twice."""
    for name in (*SUITES, *ALIASES, *ATTACKS):
        check_attacks(name)
        for typo in (name[:-1], f"{name}x", f"fast,{name}s"):
            with pytest.raises(ValueError, match="unknown") as refused:
                check_attacks(typo)
            said, known = str(refused.value).split("Known: ")
            assert len(set(known.split(", "))) == len(known.split(", "))
            if "did you mean" in said:
                meant = said.split("did you mean '")[1].split("'")[0]
                assert meant != typo.split(",")[-1]
                check_attacks(meant)


@pytest.mark.parametrize(
    ("given", "names"),
    [
        *((name, (name,)) for name in SUITES),
        ("autoattack", ("autoattack",)),
        ("pgd, square", ("pgd", "square")),
        (" FGSM ,pgd", ("fgsm", "pgd")),
        (["fgsm", "pgd"], ("fgsm", "pgd")),
        (("Fast", "fab-t,gama"), ("fast", "fab-t", "gama")),
        ("pgd,fgsm,pgd", ("pgd", "fgsm")),
        ("standard,autoattack", ("standard",)),
    ],
)
def test_suites_and_attacks_are_taken_in_their_order(given: Any, names: tuple[str, ...]) -> None:
    check_attacks(given)
    assert names_in(given) == names
    assert parts_of(given)("linf")


def test_a_list_joins_the_parts_and_says_each_once() -> None:
    fast = SUITES["fast"]("linf")
    joined = parts_of("fast,fab-t,square,apgd-t,fgsm")("linf")
    names = [part.name for part in joined]
    assert names == [*(part.name for part in fast), "fab-t", "square (2)", "apgd-t (2)", "fgsm"]
    by_name = {part.name: part for part in joined}
    assert by_name["apgd-t"].attack == {part.name: part for part in fast}["apgd-t"].attack
    assert by_name["apgd-t (2)"].attack == attack("apgd-t")
    assert by_name["square"].attack == fast[-1].attack
    assert by_name["square (2)"].attack == attack("square")
    again = joined_parts([*fast, SuitePart("square", fast[-1].attack)])
    assert [part.name for part in again] == [part.name for part in fast]
    assert [part.role for part in again][-1] == "main", "asked for by name, it attacks whatever stands"
    both = parts_of("fast,brief")("linf")
    assert [part.name for part in both] == [*(part.name for part in fast), "square (2)"]
    assert parts_of("fast,fast") is SUITES["fast"]
    assert [part.name for part in parts_of("autoattack,fgsm")("linf")] == ["autoattack", "fgsm"]


@pytest.mark.parametrize("name", ATTACKS)
def test_the_norms_of_an_attack_are_those_it_declares_and_works_in(name: str) -> None:
    made = attack(name, **{"queries": 3} if name in ("square", "nes", "hop-skip-jump") else {})
    images = torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 4))
    wrong = (model(images).argmax(1) + 1) % 4  # all are mistaken already, so there is nothing to search for
    for norm in ("linf", "l2"):
        assert works_in(made, norm) == (norm in NORMS_OF.get(name, ("linf", "l2")))
        if works_in(made, norm):
            made(model, images, wrong, ball(norm, 0.1), ImageDraws.of(0, "norms", 2))
        else:
            with pytest.raises(ValueError, match="the ball is linf"):
                made(model, images, wrong, ball(norm, 0.1), ImageDraws.of(0, "norms", 2))
            with pytest.raises(ValueError, match=f"{name} works in l2 balls only.* leave it out, or give others"):
                check_attacks(f"pgd,{name}", norms=("linf",))
            check_attacks(f"pgd,{name}", norms=("linf", "l2"))
            assert [part.name for part in parts_of(f"pgd,{name}")("linf")] == ["pgd"]
            assert [part.name for part in parts_of(f"pgd,{name}")("l2")] == ["pgd", name]


def test_every_suite_and_attack_is_put_in_words() -> None:
    assert list(SUITES_IN_WORDS) == ["fast", *(name for name in SUITES if name != "fast")]
    assert list(ATTACKS_IN_WORDS) == list(ATTACKS)
