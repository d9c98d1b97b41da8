"""From a suite of attacks and a defense's knowledge to the cases of a cascade."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from memory_defense.attacks.suites import Part, Suite
from memory_defense.contracts import Adaptation, Adaptive, Ball, Defense
from memory_defense.evaluation.attempt import EXACT_KNOWLEDGE
from memory_defense.evaluation.cases import Case
from memory_defense.evaluation.replay import EARLIER, Replay


def cascade_cases(
    defense: Defense, suite: Suite, balls: Sequence[Ball], start_from: Replay | None = None
) -> list[Case]:
    """Return the cascade of every ball: what an earlier evaluation found, then the suite with every knowledge.

    A gradient-free attack runs against the defense itself only, as knowledge changes gradients. A part that names
    target classes also runs with every adaptation that is worth attacking towards each class; every other part
    runs with the others.

    Parameters
    ----------
    defense
        Its surrogates that decide as it does are attacked, and its adaptive set; transfer belongs to tables.
    suite
        From `attacks.suites.parts_of`.
    balls
        One cascade each.
    start_from
        Images of an earlier evaluation, tried first.
    """
    cases: list[Case] = []
    for ball in balls:
        if start_from is not None:
            cases.append(Case(name="replay", attack=start_from, knowledge=EARLIER, ball=ball, purpose="cascade"))
        for part in suite(ball.norm):
            cases += [
                Case(
                    name=part.name,
                    attack=part.attack,
                    knowledge=known,
                    ball=ball,
                    purpose="cascade",
                    role=part.role,
                )
                for known in _knowledge_for(part, defense)
            ]
    return cases


def _knowledge_for(part: Part, defense: Defense) -> list[str]:
    surrogates = defense.surrogates()
    transfers = getattr(defense, "transfer_knowledge", ())
    deciding = [known for known in surrogates if known not in transfers]
    if getattr(part.attack, "gradient_free", False):
        return [EXACT_KNOWLEDGE] if EXACT_KNOWLEDGE in deciding else deciding[:1]
    adaptive: Mapping[str, Adaptation] = defense.adaptive() if isinstance(defense, Adaptive) else {}
    towards_classes = hasattr(part.attack, "targets")
    deciding += [name for name, one in adaptive.items() if one.towards_each_class == towards_classes]
    return deciding
