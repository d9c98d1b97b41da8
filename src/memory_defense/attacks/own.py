"""Attacks that a caller brings along: objects of this package, or functions and objects of the caller's own.

    attacks=["fast", Pgd(steps=100), mine, {"mine again": mine}]

A function is called as `contracts.Attack` is, ``mine(model, images, labels, ball, draws)``, with up to
`Options.chunk` images at once that the model classifies correctly, and returns images of the same shape. What it
returns is checked as any attack's is: finite, inside the ball and inside [0, 1].
"""

from __future__ import annotations

import functools
import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Self, TypeAlias, TypeGuard, cast

import torch
from torch import Tensor

from memory_defense.attacks import ATTACKS
from memory_defense.attacks.suites import Suite, SuitePart, check_attacks, joined, names_in, parts_of, written
from memory_defense.contracts import Attack, Ball, Classifier, Draws, Images, Labels, needs_gradient, works_in

OneAttack: TypeAlias = "str | Attack | Callable[[Classifier, Images, Labels, Ball, Draws], Images]"
"""The name of suites and attacks, an attack, or a function that is one."""

AttacksLike: TypeAlias = "OneAttack | Sequence[OneAttack | Mapping[str, OneAttack]] | Mapping[str, OneAttack]"
"""One, several in the order in which they run, or several by the names that the record is to give them."""

_CALL = "model, images, labels, ball, draws"


class OwnAttack:
    """A caller's function, or object, as an attack.

    Parameters
    ----------
    function
        Called with model, images (B, C, H, W), labels (B,), ball and draws; returns images (B, C, H, W). Of an
        object, `gradient_free`, `hard_label`, `norms` and `for_transfer` (see `contracts`) are believed, where it
        has them.

    Raises
    ------
    ValueError
        For something that cannot be called so.
    """

    def __init__(self, function: Callable[..., object]) -> None:
        try:
            inspect.signature(function).bind(*_CALL.split(", "))
        except TypeError as error:
            raise ValueError(
                f"{_called(function)} is not an attack ({error}): it is called with {_CALL}, in this order, and "
                "returns the images that it made; see contracts.Attack"
            ) from error
        except ValueError:  # some built-in callables have no signature
            pass
        self.function = function
        self.gradient_free = not needs_gradient(function)
        self.hard_label = bool(getattr(function, "hard_label", False))
        self.norms = tuple(cast("Sequence[str]", getattr(function, "norms", ("linf", "l2"))))
        self.sha256 = _fingerprint(function)
        """Of its text: an evaluation that was stopped goes on only with the same one."""

    def __repr__(self) -> str:
        return f"OwnAttack({_called(self.function)})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, OwnAttack) and other.function == self.function

    def __hash__(self) -> int:
        return hash(self.function)

    def __call__(self, model: Classifier, images: Images, labels: Labels, ball: Ball, draws: Draws) -> Images:
        """Return images (B, C, H, W) as float32.

        Raises
        ------
        ValueError
            For anything else than a tensor of floats.
        """
        with torch.enable_grad():
            found = self.function(model, images.clone(), labels.clone(), ball, draws)
        if not isinstance(found, Tensor) or not found.is_floating_point():
            kind = found.dtype if isinstance(found, Tensor) else type(found).__name__
            raise ValueError(
                f"{_called(self.function)} returned {kind}, expected a tensor of floats {tuple(images.shape)}: the "
                "images that it made"
            )
        return found.detach().to(images)

    def for_transfer(self) -> Self:
        """Return the attack for a surrogate that errs otherwise than the defense: the function's own, or itself."""
        other = getattr(self.function, "for_transfer", None)
        return type(self)(cast("Callable[..., object]", other())) if callable(other) else self


def suite_of(attacks: object, norm: str) -> tuple[Suite, str]:
    """Return what `AttacksLike` names as one suite, and a text that names it in records.

    Equal attacks come once; one that has another's name but not its settings is numbered, as ``pgd (2)``.

    Parameters
    ----------
    attacks
        See `AttacksLike`.
    norm
        ``linf`` or ``l2``.

    Raises
    ------
    ValueError
        For an unknown name, something that is no attack, or attacks none of which works in the norm.
    """
    groups = _groups(attacks)
    if all(isinstance(one, str) for one, _ in groups):
        texts = attacks if isinstance(attacks, str) else [cast("str", one) for one, _ in groups]
        check_attacks(texts, norms=(norm,))
        return parts_of(texts), written(texts)
    suites: list[Suite] = []
    for one, name in groups:
        if isinstance(one, str):
            check_attacks(one, norms=(norm,))
            suites.append(parts_of(one))
            continue
        attack = _attack(one)
        if not works_in(attack, norm):
            raise ValueError(
                f"{name or _named(attack)} does not work in {norm} balls, and no other is evaluated here; leave it "
                "out"
            )
        part = SuitePart(name or _named(attack), attack)
        suites.append(lambda _, part=part: (part,))
    text = ",".join(one if isinstance(one, str) else name or _shown(_attack(one)) for one, name in groups)
    return lambda within: joined(part for suite in suites for part in suite(within)), text


def _groups(attacks: object) -> list[tuple[object, str]]:
    """Return what was given, one by one, each with the name that the caller gave it, or none."""
    if isinstance(attacks, Mapping):
        return [(one, _name(name)) for name, one in cast("Mapping[object, object]", attacks).items()]
    if not isinstance(attacks, (list, tuple)):
        if not callable(attacks):
            names_in(attacks)
        return [(attacks, "")]
    return [pair for one in cast("Sequence[object]", attacks) for pair in _groups_in(one)]


def _groups_in(one: object) -> list[tuple[object, str]]:
    return _groups(cast("object", one)) if isinstance(one, Mapping) else [(one, "")]


def _name(name: object) -> str:
    if not isinstance(name, str) or not name.strip():
        raise ValueError(f"an attack is named {name!r}, expected a text, such as {{'mine': mine}}")
    return name.strip()


def _attack(one: object) -> Attack:
    """Return an attack of this package as it is, and anything else that can be called as an `OwnAttack`."""
    if isinstance(one, OwnAttack) or _ours(one):
        return one
    if isinstance(one, type):
        raise ValueError(f"attacks holds the class {one.__name__}, expected an attack; make one: {one.__name__}()")
    if not callable(one):
        raise ValueError(
            f"attacks holds {one!r}, expected a name such as 'fast', an attack such as Pgd(steps=100), or a "
            f"function of {_CALL}"
        )
    return OwnAttack(one)


def _ours(one: object) -> TypeGuard[Attack]:
    """Return whether this is a whole `contracts.Attack`: frozen options that say what they do for a transfer."""
    return is_dataclass(one) and not isinstance(one, type) and callable(one) and hasattr(one, "for_transfer")


def _named(attack: Attack) -> str:
    """Return the name of an attack's class in `ATTACKS`, else its own."""
    if isinstance(attack, OwnAttack):
        return _called(attack.function).rpartition(".")[2].strip("<>")
    for name in ATTACKS:
        if type(attack) is ATTACKS[name]:
            return name
    return type(attack).__name__.lower()


def _shown(attack: Attack) -> str:
    """Return an attack's name with the settings that are not the defaults: ``pgd(steps=100)``."""
    if not is_dataclass(attack):
        return _named(attack)
    changed = [
        f"{one.name}={getattr(attack, one.name)!r}"
        for one in fields(attack)
        if one.default is MISSING or getattr(attack, one.name) != one.default
    ]
    return f"{_named(attack)}({', '.join(changed)})" if changed else _named(attack)


def _called(function: object) -> str:
    """Return the name that a function or an object's class has in its module."""
    named = function if hasattr(function, "__qualname__") else type(function)
    return str(getattr(named, "__qualname__", named))


def _fingerprint(function: Any) -> str:
    """Return a hash of what decides what a function or an object does, as far as it can be written down.

    That is the source of the function, or of the object's class, else its code, and the values that a
    `functools.partial`, a closure, defaults or the object itself bring along, where they say what they are.
    """
    if isinstance(function, functools.partial):
        held = cast("functools.partial[Any]", function)
        values = [*held.args, *sorted(held.keywords.items())]
        return _hash(_fingerprint(held.func), *map(_said, values))
    if not inspect.isroutine(function):
        return _hash(_source(type(function)), _said(function), *map(_said, sorted(_attributes(function).items())))
    plain = getattr(function, "__func__", function)
    cells = [cell.cell_contents for cell in getattr(plain, "__closure__", None) or ()]
    defaults = [*(getattr(plain, "__defaults__", None) or ()), getattr(plain, "__kwdefaults__", None)]
    return _hash(_source(plain), *map(_said, [*cells, *defaults, getattr(function, "__self__", None)]))


def _hash(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


def _attributes(one: object) -> dict[str, object]:
    return dict(getattr(one, "__dict__", {}))


def _source(subject: Any) -> str:
    try:
        return inspect.getsource(subject)
    except (OSError, TypeError):
        code = getattr(subject, "__code__", None)
        return "" if code is None else repr((code.co_code, code.co_names, [_said(one) for one in code.co_consts]))


def _said(value: object) -> str:
    """Return what a value says of itself; its type where that would differ from one process to the next."""
    text = repr(value)
    return type(value).__qualname__ if " at 0x" in text else text
