"""Adversarial images made once, before a stage is trained on them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from memory_defense.contracts import Attack, Ball, Progress
from memory_defense.data.images import ImageSet
from memory_defense.progress import during
from memory_defense.randomness import ImageDraws, derive
from memory_defense.ranks import current
from memory_defense.recipes.recipe import OfflinePairs, OfflineSet
from memory_defense.tensorfiles import content_sha256, read_tensors, write_tensors
from memory_defense.wrappers import modules_of

_PART = 1000
"""Number of images that are attacked at once."""


@dataclass(frozen=True)
class Workshop:
    """Folder of a set's finished parts until its stage is trained, so that making it can be continued."""

    directory: Path
    progress: Progress | None = None
    """Display of the finished parts; its `advance` may raise KeyboardInterrupt."""


def with_adversarial(
    images: ImageSet, model: nn.Module, offline: OfflineSet, seed: int, workshop: Workshop | None = None
) -> ImageSet:
    """Return the clean images and, after them, what an attack on `model` makes of them, as 8-bit images.

    Raises ValueError for images that are not 8-bit.
    """
    adversarial = attacked_bytes(images, model, offline.attack, offline.ball, seed, workshop)
    keep = torch.ones(len(images), dtype=torch.bool, device=adversarial.device)
    if offline.successful_only:
        with torch.no_grad():
            answers = torch.cat([model(part.float() / 255).argmax(1) for part in torch.split(adversarial, 500)])
        keep = answers != images.labels
    return ImageSet(
        torch.cat([images.images, adversarial[keep]]),
        torch.cat([images.labels, images.labels[keep]]),
        torch.cat([images.ids, images.ids[keep] + int(images.ids.max()) + 1]),
    )


def adversarial_pairs(
    images: ImageSet, model: nn.Module, pairs: OfflinePairs, seed: int, workshop: Workshop | None = None
) -> ImageSet:
    """Return adversarial images, attack after attack, with the clean images they were made of beside them.

    Raises ValueError for images that are not 8-bit.
    """
    images = images if pairs.images is None else images.first(min(pairs.images, len(images)))
    made = [
        attacked_bytes(images, model, attack, ball, derive(seed, "pairs", index), workshop)
        for index, (attack, ball) in enumerate(pairs.attacks)
    ]
    if pairs.with_clean:
        made.append(images.images)
    apart = int(images.ids.max()) + 1
    return ImageSet(
        torch.cat(made),
        images.labels.repeat(len(made)),
        torch.cat([images.ids + index * apart for index in range(len(made))]),
        images.images.repeat(len(made), 1, 1, 1),
    )


def attacked_bytes(
    images: ImageSet, model: nn.Module, attack: Attack, ball: Ball, seed: int, workshop: Workshop | None = None
) -> Tensor:
    """Return what an attack on `model` makes of 8-bit images: (N, C, H, W) uint8.

    Rounding to grey levels never leaves an L-inf ball: the change is cut to whole levels inside it.
    """
    if images.images.dtype != torch.uint8:
        raise ValueError(
            f"adversarial images are kept in 8 bits, but these are {images.images.dtype}; round them first, or "
            "train on attacks made as it goes (training.adversarial.Online)"
        )
    draws = ImageDraws.of(seed, "offline", images.ids, images.labels.device)
    parts = torch.split(torch.arange(len(images), device=images.labels.device), _PART)
    progress = None if workshop is None else workshop.progress
    if progress is not None:
        progress.begin("making adversarial images", len(parts))

    def make(rows: Tensor) -> Tensor:
        clean = images.images[rows]
        attacked = attack(model, images.floats(rows), images.labels[rows], ball, draws.rows(rows))
        change = (attacked * 255).round().to(torch.int16) - clean
        if ball.norm == "linf" and math.isfinite(ball.epsilon):
            levels = int(ball.epsilon * 255 + 1e-6)
            change = change.clamp(-levels, levels)
        return (clean + change).clamp(0, 255).to(torch.uint8)

    made: list[Tensor] = []
    made_of = "" if workshop is None else _made_of(images, model, attack, ball)
    for number, rows in enumerate(parts):
        path = None if workshop is None else workshop.directory / f"{seed}-{number}.safetensors"
        known = path is not None and path.is_file()
        with during(progress, f"{len(rows):,} images at work"):
            made.append(_known(path, images.images[rows], made_of) if path is not None and known else make(rows))
        if path is not None and not known and current().leads:
            write_tensors(path, {"images": made[-1]}, {"made_of": made_of})
        if progress is not None:
            progress.advance(1)
    return torch.cat(made)


def _made_of(images: ImageSet, model: nn.Module, attack: Attack, ball: Ball) -> str:
    """Return a hash of what a set is made of: clean images, weights, attack and ball."""
    weights = (one for module in modules_of(model) for one in module.state_dict().values())
    tensors = (images.images, images.labels, images.ids, *weights)
    return content_sha256(tensors, f"{attack!r} {ball!r}")


def _known(path: Path, clean: Tensor, made_of: str) -> Tensor:
    """Return a part made before; raise ValueError for one of other images, or made against another model."""
    tensors, header = read_tensors(path)
    images = tensors.get("images")
    other = header.get("made_of", made_of) != made_of
    if other or images is None or images.shape != clean.shape or images.dtype != clean.dtype:
        raise ValueError(f"{path} is not part of this set of adversarial images; delete it to make it again")
    return images.to(clean.device)
