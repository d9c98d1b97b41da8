"""Knowledge of an attacker: the surrogates that a defense publishes, and the adaptations made against it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from memory_defense.attacks import ATTACKS
from memory_defense.checks import nearest
from memory_defense.contracts import (
    Adaptation,
    Adaptive,
    Attack,
    Binding,
    Classifier,
    Defense,
    Targeting,
    needs_gradient,
)
from memory_defense.evaluation.attempt import EXACT_KNOWLEDGE
from memory_defense.evaluation.cases import QUERIES
from memory_defense.reporting.wording import ADAPTIVE, KNOWLEDGE, joined, knowledge_label

_PLAIN = {
    "fixed-slots": "The attacker changes the image, but the slot stays that of the clean image: the selector is "
    "never attacked. The paper measures in this way, which makes the model look more robust than it is.",
    "selector": "The attacker attacks the selector alone, so that the model opens the wrong slot.",
    "end-to-end": "The attacker knows the whole model, from the image to the answer, and uses all of it.",
    "target-classifier": "The attacker knows and attacks only the second classifier, which names the redrawn "
    "image.",
    "undefended": "The attacker knows nothing of this model: the image is made against an ordinary network and "
    "then tried here.",
}
"""The plain surrogates, for a reader who meets them here first; all others are said as the report says them."""

_MEANINGS = {
    "steering": "The attacker knows the whole defense and pushes the selector alone towards one wrong class after "
    "the other, until the defense's answer is wrong.",
    "joint": "The attacker knows the whole defense and pushes the selector and the classifier behind the slot "
    "towards a wrong answer together.",
    "members": "The attacker knows the whole defense and pushes all of its classifiers towards a wrong answer "
    "together.",
    "weakest": "The attacker knows the whole ensemble and pushes the member that is nearest to leaving the common "
    "answer, one after the other, until the answer is wrong.",
    "unclamped": "The attacker knows the whole mixture and follows its gradient as if the robust classifier's "
    "confidence were not transformed, until the answer is wrong.",
    "silent": "The attacker knows the whole defense and its flag, and seeks a wrong answer that is not flagged.",
    "crossing": "The attacker knows the whole defense and its flag, first seeks a wrong answer, and then one "
    "that is not flagged.",
    "confident": "The attacker knows the whole defense and its flag, and raises the confidence of one wrong class "
    "after the other until that class is the answer and is not flagged.",
    "consistent": "The attacker knows the whole defense and its flag, and raises the confidence of one wrong class "
    "after the other at the image and where the defense looks around it.",
}
"""The adaptations that the library's own defenses publish."""


@dataclass(frozen=True)
class Known:
    """One attacker's knowledge of one defense."""

    name: str
    surrogate: Classifier | Binding
    """The surrogate to attack."""
    adaptation: Adaptation | None = None
    """None for a plain surrogate."""

    @property
    def label(self) -> str:
        """Short name for the page."""
        return knowledge_label(self.name)

    @property
    def meaning(self) -> str:
        """The attacker's knowledge and target in a sentence; empty for an unknown name."""
        if self.adaptation is None:
            if self.name in _PLAIN:
                return _PLAIN[self.name]
            known = KNOWLEDGE | ADAPTIVE
            return known[self.name].meaning if self.name in known else ""
        if self.name in _MEANINGS:
            return _MEANINGS[self.name]
        aim = "a wrong answer that is not flagged" if self.adaptation.fights_flag else "a wrong answer"
        way = ", towards one wrong class after the other" if self.adaptation.towards_each_class else ""
        return f"The attacker seeks {aim} and follows a gradient that this defense publishes against itself{way}."

    @property
    def adaptive(self) -> bool:
        """Whether the defense publishes it for attacks on itself."""
        return self.adaptation is not None

    @property
    def methods(self) -> tuple[str, ...]:
        """The names of the attacks that `check_fits` lets pass."""
        return tuple(name for name, made in ATTACKS.items() if not self._fault(made()))

    @property
    def needs(self) -> str:
        """The fitting attacks in words; empty if every one fits."""
        if len(self.methods) == len(ATTACKS):
            return ""
        if self.name == QUERIES or (self.adaptation and self.adaptation.towards_each_class):
            return joined(self.methods).replace(" and ", " or ")
        return "a method that uses gradients"

    def check_fits(self, name: str, attack: Attack) -> None:
        """Raise ValueError for an attack that cannot use what makes this knowledge another one.

        The evaluator pairs them in the same way (`workflows.evaluate`).

        Parameters
        ----------
        name
            The attack's.
        attack
            Any, for a plain surrogate. For an adaptation towards each class, one that names target classes. For
            one whose answers are the defense's own, so that only its gradient is different, one with gradients.
        """
        if fault := self._fault(attack):
            raise ValueError(f"{name} {fault}; choose {self.needs}, or another knowledge")

    def _fault(self, attack: Attack) -> str:
        if self.name == QUERIES and needs_gradient(attack):
            return "follows a gradient, but this model only answers"
        if self.adaptation is None:
            return ""
        if self.adaptation.towards_each_class and not isinstance(attack, Targeting):
            return f"leads away from the right class, but {self.label} is for attacks towards each wrong class"
        if not needs_gradient(attack) and not self.adaptation.fights_flag:
            return f"uses no gradient, but {self.label} differs from {EXACT_KNOWLEDGE} by its gradient alone"
        return ""


def knowledge_of(defense: Defense) -> dict[str, Known]:
    """Return everything that a defense publishes, by name: surrogates first, then its adaptive set."""
    found = {name: Known(name, surrogate) for name, surrogate in defense.surrogates().items()}
    adaptive: Mapping[str, Adaptation] = defense.adaptive() if isinstance(defense, Adaptive) else {}
    return found | {name: Known(name, one.surrogate, one) for name, one in adaptive.items()}


def chosen(defense: Defense, name: str, run: str) -> Known:
    """Return a defense's knowledge of this name; raise ValueError, naming the run, where it publishes none."""
    known = knowledge_of(defense)
    if name not in known:
        raise nearest(name, known, f"knowledge of {run}")
    return known[name]
