"""An attack that invents nothing: it hands in what an earlier evaluation found, moved into the ball."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Self

import torch

from memory_defense.contracts import Ball, Classifier, Draws, Images, Labels, Rows
from memory_defense.evaluation.results import PerImageResults, images_of

EARLIER = "earlier"
"""The knowledge of whoever starts from an earlier evaluation's images: none of this defense."""


_TOGETHER = 64
"""Images that are hashed at a time."""


@dataclass(frozen=True, kw_only=True)
class Replay:
    """Adversarial images of an earlier evaluation, of this defense or of another (transfer).

    Parameters
    ----------
    source
        Name of the file, for the record.
    results
        What it held.
    """

    source: str
    results: PerImageResults = field(repr=False)

    @property
    def sha256(self) -> str:
        """Return the checksum of the file, or a hash of all adversarial images where it has none."""
        if self.results.checksum:
            return self.results.checksum
        digest = hashlib.sha256()
        for broken in self.results.broken:
            for rows in torch.split((broken.breaker >= 0).nonzero().squeeze(1), _TOGETHER):
                digest.update(broken.images[rows].numpy().tobytes())
        return digest.hexdigest()

    def closest(self, images: Images, ids: Rows, ball: Ball) -> Images:
        """Return the closest earlier finding in this norm for each image, by its id (B,), else the image itself.

        What was found in a larger ball is projected into `ball`.
        """
        best, distance = images.clamp(0, 1), torch.full((len(images),), torch.inf, device=images.device)
        for places, kept in images_of(self.results, ids.cpu(), ball.norm):
            rows, found = places.to(images.device), kept.to(images)
            length = ball.distance(found, images[rows])
            closer = length < distance[rows]
            distance[rows[closer]] = length[closer]
            best[rows[closer]] = ball.project(found[closer], images[rows[closer]])
        return best

    def __call__(self, model: Classifier, images: Images, labels: Labels, ball: Ball, draws: Draws) -> Images:
        """Return the images unchanged: without ids nothing is known about them; see `closest`."""
        del model, labels, ball, draws
        return images.clone()

    def for_transfer(self) -> Self:
        """Return the same attack: it only ever transfers."""
        return self
