"""What an evaluation consists of: an attack, what its maker knows, and the ball it must stay in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, Literal, Self

from memory_defense.contracts import Attack, Ball, Classifier, Draws, Images, Labels
from memory_defense.evaluation.record import Parameter

Purpose = Literal["table", "curve", "cascade"]
Role = Literal["scout", "main", "outward"]


@dataclass(frozen=True)
class Later:
    """An attack that is made when it is needed, so that nothing of it is imported before."""

    name: str
    make: Callable[[], Attack] = field(repr=False, compare=False)
    gradient_free: bool = True
    """Whether it never asks for a gradient."""

    def __call__(self, model: Classifier, images: Images, labels: Labels, ball: Ball, draws: Draws) -> Images:
        """Return images (B, C, H, W) inside `ball`; see `contracts.Attack`."""
        return self.make()(model, images, labels, ball, draws)

    def for_transfer(self) -> Self:
        """Return the same for another model."""
        return replace(self, make=lambda: self.make().for_transfer())


@dataclass(frozen=True, kw_only=True)
class Case:
    """One attack, what its maker knows, and the ball it must stay in."""

    name: str
    """The attack's name in tables."""
    attack: Attack
    knowledge: str
    """Name of one of the defense's surrogates."""
    ball: Ball
    purpose: Purpose = "table"
    """A table case attacks every image and is a cell of a table. A curve case is a point of accuracy against
    epsilon and stays out of the tables. A cascade case attacks only what the ones before it left standing."""
    role: Role = "main"
    """In a cascade: a scout is cheap, and the best of them goes first; a main case attacks whatever stands; an
    outward case begins with the images that were nearly broken, and goes on until it tried a tenth of those that
    stand without breaking one."""

    note: str = ""
    """What was changed so that the attack fits the model; see `fitting.fitted`."""

    @property
    def key(self) -> str:
        """Name of this case in files and of its random draws' ledger."""
        return f"{self.purpose} {self.name} {self.knowledge} {self.ball.norm} {self.ball.epsilon!r}"


def cross(
    attacks: Mapping[str, Attack], knowledge: Sequence[str], balls: Sequence[Ball], **options: Any
) -> list[Case]:
    """Return every attack with every knowledge in every ball."""
    return [
        Case(name=name, attack=attack, knowledge=known, ball=ball, **options)
        for ball in balls
        for name, attack in attacks.items()
        for known in knowledge
    ]


def parameters_of(attack: Attack) -> dict[str, Parameter]:
    """Return the attack's own configuration, as its dataclass fields."""
    values: dict[str, Any] = {}
    if is_dataclass(attack):
        values = {one.name: getattr(attack, one.name) for one in fields(attack)}
    return {name: value if isinstance(value, Parameter) else repr(value) for name, value in values.items()}


QUERIES = "queries"
"""The knowledge of an adversary who may only ask: the defense's own answers, without a gradient."""
