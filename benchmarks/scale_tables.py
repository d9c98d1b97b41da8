"""The tables of docs/scale.md, from the numbers that scale.py counted and from published rates of cards."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DOC = Path(__file__).parent.parent / "docs" / "scale.md"
REFERENCE = "ResNet-50, 224 px"
REFERENCE_RATE = 2470.0
"""Training images in a second on one A100 80 GB, mixed precision (NVIDIA DeepLearningExamples, ResNet-50 v1.5)."""
REFERENCE_RATE_8 = 16621.0
"""The same on eight."""
BYTES_FACTOR = 0.5
"""bfloat16 takes half of what was counted in float32."""


@dataclass(frozen=True)
class Card:
    """Published peaks: dense bfloat16 FLOP/s and bytes/s."""

    name: str
    flop: float
    bandwidth: float


A100 = Card("A100 80 GB", 312e12, 2.039e12)
H100 = Card("H100 SXM", 989.4e12, 3.35e12)

SETS = {
    "Fashion-MNIST": ("ResNet-50, 28 px", 55_000, 10_000),
    "CIFAR-10": ("ResNet-50, 32 px", 45_000, 10_000),
    "ImageNet": ("ResNet-50, 224 px", 1_281_167, 5_000),
}
"""Network, training images, evaluated images (of ImageNet, RobustBench's 5,000)."""
NEED_A_START = ("hop-skip-jump",)
PAPER = ("fgsm", "bim", "pgd", "cw")


def _cost(found: Any, attack: str, network: str) -> tuple[Any, Any]:
    """Return what a pass costs and how many an image takes that survives, or falls where the attack needs that."""
    return found["networks"][network], found["passes"][attack]["fall" if attack in NEED_A_START else "survive"]


def attack_flop(found: Any, attack: str, network: str) -> float:
    """Return the FLOP that one attacked image takes."""
    cost, passes = _cost(found, attack, network)
    return passes["forward"] * cost["forward_flop"] + passes["backward"] * cost["backward_flop"]


def attack_bytes(found: Any, attack: str, network: str) -> float:
    """Return the bytes, in float32, that one attacked image moves."""
    cost, passes = _cost(found, attack, network)
    backward = cost["attack_bytes"] - cost["forward_bytes"]
    return passes["forward"] * cost["forward_bytes"] + passes["backward"] * backward


def reached(found: Any) -> float:
    """Return the share of its peak that one A100 reaches in published training."""
    return REFERENCE_RATE * found["networks"][REFERENCE]["training_flop"] / A100.flop


def hours(found: Any, card: Card, flop: float, moved: float) -> float:
    """Return hours on one card: the longer of computing at the reached share and moving at full bandwidth."""
    return max(flop / (reached(found) * card.flop), moved * BYTES_FACTOR / card.bandwidth) / 3600


def jobs(found: Any, name: str) -> dict[str, tuple[float, float, float]]:
    """Return FLOP, bytes and what eight cards gain, for everything a row of a table takes."""
    network, training, tested = SETS[name]
    cost = found["networks"][network]
    pgd = [of(found, "pgd-10, training", network) + cost[f"training_{what}"] for of, what in _BOTH]
    gain = REFERENCE_RATE_8 / REFERENCE_RATE
    return {
        f"FGSM, BIM, PGD, C&W, {tested:,} images": (
            *(tested * sum(of(found, attack, network) for attack in PAPER) for of, _ in _BOTH),
            8.0,
        ),
        f"AutoAttack, {tested:,} images": (*(tested * of(found, "autoattack", network) for of, _ in _BOTH), 8.0),
        "benign training, 100 epochs": (*(100 * training * cost[f"training_{what}"] for _, what in _BOTH), gain),
        "PGD-10 training, 60 epochs": (*(60 * training * one for one in pgd), gain),
    }


_BOTH = ((attack_flop, "flop"), (attack_bytes, "bytes"))


def write_tables(found: Any) -> None:
    """Replace what stands between the markers of docs/scale.md."""
    text = DOC.read_text(encoding="utf-8")
    for name, lines in _tables(found).items():
        start, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
        before, rest = text.split(start)
        text = before + start + "\n".join(lines) + "\n" + end + rest.split(end, 1)[1]
    DOC.write_text(text, encoding="utf-8")


def _tables(found: Any) -> dict[str, list[str]]:
    networks = [name for name in found["networks"] if name != REFERENCE]
    attacks = [name for name in found["passes"] if name != "pgd-10, training"]
    costs = [
        (name, f"{cost['parameters'] / 1e6:.2f} M", *(f"{cost[key] / 1e9:.3g}" for key in _COST_KEYS))
        for name, cost in found["networks"].items()
    ]
    counts = [
        (name, *(f"{found['passes'][name][outcome][way]:,.4g}" for outcome in _OUTCOMES for way in _WAYS))
        for name in attacks
    ]
    flop, moved = (
        [(name, *(_number(of(found, name, network) / 1e9) for network in networks)) for name in attacks]
        for of, _ in _BOTH
    )
    times = [
        (
            f"{name}: {job}",
            *(_time(hours(found, card, flop, moved) / by) for card in (A100, H100) for by in (1, gain)),
        )
        for name in SETS
        for job, (flop, moved, gain) in jobs(found, name).items()
    ]
    share = f"{reached(found):.0%}"
    return {
        "networks": _table(("network", "parameters", *_COST_TITLES), costs),
        "passes": _table(("attack", "survives: forward", "backward", "falls: forward", "backward"), counts),
        "flop": _table(("GFLOP an image", *networks), flop),
        "bytes": _table(("GB an image", *networks), moved),
        "hours": [
            f"One A100 in the cited run reaches {share} of its peak; the same share is assumed everywhere.",
            "",
            *_table(("work", "A100", "8 x A100", "H100", "8 x H100"), times),
        ],
    }


_COST_KEYS = ("forward_flop", "backward_flop", "training_flop", "attack_bytes", "training_bytes")
_COST_TITLES = (
    "forward, GFLOP",
    "backward to the image",
    "training step",
    "attack step, GB",
    "training step, GB",
)
_OUTCOMES = ("survive", "fall")
_WAYS = ("forward", "backward")


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _time(hours: float) -> str:
    """Return hours in the unit that reads best."""
    if hours < 1 / 60:
        return f"{hours * 3600:.2g} s"
    if hours < 1:
        return f"{hours * 60:.2g} min"
    return f"{hours:.2g} h" if hours < 72 else f"{hours / 24:.3g} days"


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    head = list(head)
    return [_line(head), _line(["---"] * len(head)), *(_line(row) for row in rows)]


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"
