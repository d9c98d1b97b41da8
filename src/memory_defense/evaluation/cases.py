"""What an evaluation consists of: an attack, what its maker knows, and the ball it must stay in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal

from memory_defense.contracts import Attack, Ball
from memory_defense.evaluation.metrics import Submissions
from memory_defense.evaluation.record import Parameter

_ONCE = Submissions()


@dataclass(frozen=True, kw_only=True)
class Conduct:
    """How an evaluation is carried out; but for `submissions` and `bfloat16`, nothing here changes a result.

    Parameters
    ----------
    submissions
        How often an image is handed in before it is judged.
    chunk
        Images that an attack holds at once, at least 1; the state is saved between chunks.
    micro_batch
        Images in one pass, at least 1; None finds the fastest by a short probe.
    bfloat16
        Compute attacks' gradients in bfloat16; verdicts stay float32. Off by default, as it may find less.
    resume_at
        A file to save to and to go on from; it is removed once the evaluation is whole. None keeps nothing.
    keep_state
        Leave that file to whoever writes the record and removes it then (`store.discard`): nothing is lost between.

    Raises
    ------
    ValueError
        For a count below 1.
    """

    submissions: Submissions = _ONCE
    chunk: int = 1024
    micro_batch: int | None = None
    bfloat16: bool = False
    resume_at: Path | None = None
    keep_state: bool = False

    def __post_init__(self) -> None:
        for name, count in {"chunk": self.chunk, "micro_batch": self.micro_batch or 1}.items():
            if count < 1:
                raise ValueError(f"{name} is {count}, but an attack needs at least 1 image")


Purpose = Literal["table", "curve", "cascade"]
Role = Literal["scout", "main", "outward"]


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
    outward case begins with the survivors nearest to breaking and goes on outward while it breaks any."""

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
