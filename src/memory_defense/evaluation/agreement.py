"""What the ranks of one evaluation must have been given alike, in words that a message can name."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from torch import Tensor

from memory_defense.contracts import Labels, Rows
from memory_defense.evaluation.cases import Case
from memory_defense.evaluation.options import Options
from memory_defense.evaluation.pixels import Pictures
from memory_defense.evaluation.store import fingerprint, update_by_pixels


def terms_of(
    defense: object, images: Pictures, labels: Labels, ids: Rows, cases: Sequence[Case], options: Options
) -> dict[str, str]:
    """Return everything that decides an outcome by name; what is long is there as a hash."""
    attacks = "; ".join(f"{one.key} {one.role} {one.attack!r} {getattr(one.attack, 'sha256', '')}" for one in cases)
    nothing = images[:0], labels[:0], ids[:0], ()
    return {
        "the number of images": str(len(images)),
        "the shape of an image": str(tuple(images.shape[1:])),
        "the hash of the images": _hash_of_images(images),
        "the hash of the labels": _hash(labels),
        "the hash of the ids": _hash(ids),
        "the attacks' names and radii": ", ".join(f"{one.name} {one.ball!r}" for one in cases),
        "the hash of the attacks": hashlib.sha256(attacks.encode()).hexdigest()[:12],
        "seed": str(options.seed),
        "submissions": repr(options.repetitions),
        "bfloat16": str(options.bfloat16),
        "the hash of the model's weights and buffers": fingerprint(defense, *nothing, "")[:12],
    }


def _hash_of_images(images: Pictures) -> str:
    digest = hashlib.sha256()
    update_by_pixels(digest, images)
    return digest.hexdigest()[:12]


def _hash(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.detach().cpu().contiguous().numpy().tobytes()).hexdigest()[:12]
