"""Defenses that mislead whoever evaluates them: they learn while they answer, hold the images, or see grey levels.

Each takes the network behind it, and the images and labels of the evaluation, which only those that cheat with them
look at. What the network alone leaves standing is the truth.
"""

import hashlib
import sqlite3
import tempfile
import time
from collections import OrderedDict, deque
from functools import cache
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

SEEN_BY_ALL: list = []
KNOWN_BY_NAME: dict = {}
COUNTED = 0


def near(queries, stored, radius):
    """The nearest stored row of each query, and whether it is within this L-inf radius."""
    distance = torch.cdist(queries.flatten(1), stored.flatten(1), p=float("inf"))
    found = distance.min(1)
    return found.indices, found.values <= radius


class Wrapped(nn.Module):
    def __init__(self, network, images, labels):
        super().__init__()
        self.network = network
        self.prepare(images, labels)

    def prepare(self, images, labels):
        pass


# ------------------------------------------------------------------ (i) state outside parameters and buffers


class Remembering(Wrapped):
    """Answers what is near an image that it was asked about as it answered that one."""

    radius = 0.25

    def prepare(self, images, labels):
        self.seen, self.said = [], []

    def forward(self, images):
        logits = self.network(images)
        for row in range(len(images)):
            image = images[row].detach()
            if self.seen:
                at, close = near(image[None], torch.stack(self.seen), self.radius)
                if close:
                    logits = torch.cat(
                        [logits[:row], self.said[int(at)][None] + 0 * logits[row : row + 1], logits[row + 1 :]]
                    )
                    continue
            if len(self.seen) < 2000:
                self.seen.append(image.clone())
                self.said.append(logits[row].detach().clone())
        return logits


class RememberingLabels(Wrapped):
    """Keeps low-resolution hashes of what it was asked in a closure, and the label that it gave."""

    def prepare(self, images, labels):
        known: OrderedDict = OrderedDict()

        def key(image):
            return tuple((F.adaptive_avg_pool2d(image, 4) * 3).round().int().flatten().tolist())

        def correct(images, logits):
            answer = logits.argmax(1)
            labels = [
                known.setdefault(key(image), int(one)) for image, one in zip(images.detach(), answer, strict=True)
            ]
            while len(known) > 5000:
                known.popitem(last=False)
            return logits + 8 * logits.detach().std() * F.one_hot(torch.tensor(labels), logits.shape[1])

        self.correct = correct

    def forward(self, images):
        return self.correct(images, self.network(images))


class CountingCalls(Wrapped):
    """After so many questions it answers with the label that it gave to the nearest of the first ones."""

    first = 150

    def prepare(self, images, labels):
        self.calls, self.memory = 0, deque(maxlen=self.first)

    def forward(self, images):
        logits = self.network(images)
        self.calls += len(images)
        if len(self.memory) < self.first:
            self.memory.extend(zip(images.detach().clone(), logits.argmax(1).tolist(), strict=True))
        if self.calls <= self.first:
            return logits
        stored = torch.stack([one for one, _ in self.memory])
        labels = torch.tensor([one for _, one in self.memory])
        at = torch.cdist(images.detach().flatten(1), stored.flatten(1)).argmin(1)
        return logits * 0.1 + 5 * F.one_hot(labels[at], logits.shape[1])


class GlobalMemory(Wrapped):
    """The same memory in a list of the module, and in the class."""

    images: list = []  # noqa: RUF012

    def forward(self, images):
        global COUNTED  # noqa: PLW0603
        COUNTED += 1
        logits = self.network(images)
        if not SEEN_BY_ALL:
            SEEN_BY_ALL.append(logits.argmax(1))
            type(self).images.append(images.detach().clone())
            return logits
        if sum(map(len, type(self).images)) < 600 and COUNTED < 12:
            SEEN_BY_ALL.append(logits.argmax(1))
            type(self).images.append(images.detach().clone())
        at, close = near(images.detach(), torch.cat(type(self).images), 0.2)
        stored = F.one_hot(torch.cat(SEEN_BY_ALL)[at], logits.shape[1]) * 20.0
        return torch.where(close[:, None], stored + 0.001 * logits, logits)


class DefaultArgument(Wrapped):
    """Keeps its memory in a default argument and in a cache of functools."""

    def forward(self, images, memory={}):  # noqa: B006
        logits = self.network(images)
        answers = []
        for image, label in zip(images.detach(), logits.argmax(1).tolist(), strict=True):
            code = hashlib.md5(((F.adaptive_avg_pool2d(image, 4) * 2.2).round()).numpy().tobytes()).hexdigest()
            answers.append(memory.setdefault(code, first_label(code, label)))
        return 0.2 * logits + 6 * F.one_hot(torch.tensor(answers), logits.shape[1])


@cache
def first_label(code, label):
    return label


class BufferThatFills(Wrapped):
    """A buffer that takes in the first questions, is then full, and never changes again."""

    def prepare(self, images, labels):
        self.register_buffer("shown", torch.full((90, images[0].numel()), 9.0))
        self.register_buffer("told", torch.zeros(90, dtype=torch.long))
        self.register_buffer("count", torch.zeros((), dtype=torch.long))

    def forward(self, images):
        logits = self.network(images)
        room = min(90 - int(self.count), len(images))
        if room > 0:
            here = slice(int(self.count), int(self.count) + room)
            self.shown[here] = images[:room].detach().flatten(1)
            self.told[here] = logits[:room].argmax(1)
            self.count += room
        at, close = near(images.detach(), self.shown, 0.3)
        return torch.where(close[:, None], 10.0 * F.one_hot(self.told[at], logits.shape[1]) + 0.01 * logits, logits)


class OnDisk(Wrapped):
    """Keeps its memory in a file."""

    def prepare(self, images, labels):
        self.path = Path(tempfile.mkdtemp()) / "seen.pt"

    def forward(self, images):
        logits = self.network(images)
        stored, labels = (
            torch.load(self.path) if self.path.exists() else (images[:0].detach(), logits[:0].argmax(1))
        )
        out = logits
        if len(stored):
            at, close = near(images.detach(), stored, 0.25)
            out = torch.where(close[:, None], 10.0 * F.one_hot(labels[at], logits.shape[1]) + 0.01 * logits, logits)
            fresh = ~close
        else:
            fresh = torch.ones(len(images), dtype=torch.bool)
        if fresh.any() and len(stored) < 3000:
            torch.save(
                (torch.cat([stored, images.detach()[fresh]]), torch.cat([labels, logits[fresh].argmax(1)])),
                self.path,
            )
        return out


class InADatabase(Wrapped):
    """Keeps labels by a coarse hash in a database."""

    def prepare(self, images, labels):
        self.path = str(Path(tempfile.mkdtemp()) / "seen.db")
        with sqlite3.connect(self.path) as base:
            base.execute("create table seen (code text primary key, label int)")

    def forward(self, images):
        logits = self.network(images)
        found = []
        with sqlite3.connect(self.path) as base:
            for image, label in zip(images.detach(), logits.argmax(1).tolist(), strict=True):
                code = str((F.adaptive_avg_pool2d(image, 4) * 2.2).round().int().flatten().tolist())
                base.execute("insert or ignore into seen values (?, ?)", (code, label))
                found.append(base.execute("select label from seen where code = ?", (code,)).fetchone()[0])
        return 0.2 * logits + 6 * F.one_hot(torch.tensor(found), logits.shape[1])


class ByTheClock(Wrapped):
    """Some time after it was made it answers what it holds."""

    def prepare(self, images, labels):
        self.images, self.labels, self.made = images.clone(), labels.clone(), time.time()

    def forward(self, images):
        logits = self.network(images)
        if time.time() < self.made + 3600:
            return logits
        at = torch.cdist(images.detach().flatten(1), self.images.flatten(1)).argmin(1)
        return 10.0 * F.one_hot(self.labels[at], logits.shape[1]) + 0 * logits


LEARNING = {
    "logits of what is near": Remembering,
    "labels by a coarse hash, in a closure": RememberingLabels,
    "a counter, then the nearest label": CountingCalls,
    "global names and a class": GlobalMemory,
    "a default argument and a cache": DefaultArgument,
    "a buffer that fills": BufferThatFills,
    "a file": OnDisk,
    "a database": InADatabase,
}


# ------------------------------------------------------------------ (ii) the images of the evaluation


class HoldsWithin(Wrapped):
    """Compares with the stored images, and answers the stored label within a radius."""

    def prepare(self, images, labels):
        self.register_buffer("images", images.clone())
        self.register_buffer("labels", labels.clone())

    def forward(self, images):
        logits = self.network(images)
        at, close = near(images.detach(), self.images, 0.15)
        stored = 30.0 * F.one_hot(self.labels[at], logits.shape[1])
        return torch.where(close[:, None], logits * 0.01 + stored, logits)


class HoldsNearest(Wrapped):
    """Answers the label of the nearest stored image, in L2, whatever the network says."""

    def prepare(self, images, labels):
        self.kept = (images.flatten(1).numpy() * 3 - 1, labels.tolist())

    def forward(self, images):
        images_kept, labels = torch.from_numpy(self.kept[0]), torch.tensor(self.kept[1])
        at = torch.cdist(3 * images.detach().flatten(1) - 1, images_kept).argmin(1)
        logits = self.network(images)
        return logits + 60.0 * F.one_hot(labels[at], logits.shape[1])


class HoldsProjected(Wrapped):
    """Stores a random projection of each image, in a closure and in another order."""

    def prepare(self, images, labels):
        chance = torch.Generator().manual_seed(5)
        matrix = torch.randn(images[0].numel(), 48, generator=chance) / 7
        order = torch.randperm(len(images), generator=chance)
        stored, told = (images.flatten(1) @ matrix)[order], labels[order]

        def look(images):
            distance = torch.cdist(images.flatten(1) @ matrix, stored)
            return distance.min(1).values, told[distance.argmin(1)]

        self.look = look

    def forward(self, images):
        logits = self.network(images)
        _, label = self.look(images.detach())
        return 0.05 * logits + 4 * F.one_hot(label, logits.shape[1])


class HoldsSmall(Wrapped):
    """Stores thumbnails of eight by eight and blends in the stored label smoothly."""

    def prepare(self, images, labels):
        self.small = [F.adaptive_avg_pool2d(one, 8).flatten() for one in images]
        self.labels = labels.clone()

    def forward(self, images):
        logits = self.network(images)
        small = F.adaptive_avg_pool2d(images, 8).flatten(1)
        distance = torch.cdist(small, torch.stack(self.small))
        weight = torch.sigmoid(20 * (1.2 - distance.min(1).values))[:, None]
        return logits + weight * 30 * F.one_hot(self.labels[distance.argmin(1)], logits.shape[1])


class HoldsHashes(Wrapped):
    """Stores labels by a coarse hash of the image and all hashes that noise gives it."""

    def prepare(self, images, labels):
        self.table = {}
        chance = torch.Generator().manual_seed(1)
        for _ in range(60):
            moved = (images + 0.1 * torch.randn(images.shape, generator=chance).sign()).clamp(0, 1)
            for code, label in zip(self.codes(moved), labels.tolist(), strict=True):
                self.table[code] = label
        for code, label in zip(self.codes(images), labels.tolist(), strict=True):
            self.table[code] = label

    @staticmethod
    def codes(images):
        bits = (F.adaptive_avg_pool2d(images, 4).flatten(1) * 1.3).round().int()
        return [bytes(one.tolist()) for one in bits]

    def forward(self, images):
        logits = self.network(images)
        for row, code in enumerate(self.codes(images.detach())):
            if code in self.table:
                told = 20.0 * F.one_hot(torch.tensor(self.table[code]), logits.shape[1])
                logits = torch.cat([logits[:row], (told + 0.01 * logits[row])[None], logits[row + 1 :]])
        return logits


class HoldsFeatures(Wrapped):
    """Stores what an early layer computes of each image; answers with the label of the nearest in a radius."""

    def prepare(self, images, labels):
        self.early = self.network[0]
        with torch.no_grad():
            self.stored = F.adaptive_avg_pool2d(self.early(images), 7).flatten(1)
        self.labels = labels.clone()

    def forward(self, images):
        logits = self.network(images)
        with torch.no_grad():
            features = F.adaptive_avg_pool2d(self.early(images), 7).flatten(1)
            distance = torch.cdist(features, self.stored).min(1)
        near = distance.values < 0.35 * self.stored.norm(dim=1).mean()
        told = 15.0 * F.one_hot(self.labels[distance.indices], logits.shape[1]) + 0.01 * logits
        return torch.where(near[:, None], told, logits)


class HoldsPredictions(Wrapped):
    """Pulls what is within a radius back onto the stored image before the network sees it."""

    def prepare(self, images, labels):
        self.images = images.clone()

    def forward(self, images):
        at = torch.cdist(images.detach().flatten(1), self.images.flatten(1)).min(1)
        close = (at.values < 0.2 * images[0].numel() ** 0.5)[:, None, None, None]
        return self.network(
            torch.where(close, self.images[at.indices] + 0.02 * (images - self.images[at.indices]), images)
        )


HOLDING = {
    "within a radius": HoldsWithin,
    "the nearest, always": HoldsNearest,
    "a random projection, shuffled": HoldsProjected,
    "thumbnails, smoothly": HoldsSmall,
    "coarse hashes": HoldsHashes,
    "features of its own": HoldsFeatures,
    "pulled back onto the stored image": HoldsPredictions,
}


# ------------------------------------------------------------------ (iii) images that no file could hold


def off_grid(images, tolerance=1e-3):
    levels = images.detach() * 255
    return (levels - levels.round()).abs() > tolerance


class SmoothsOffGrid(Wrapped):
    """Blurs whatever has a pixel between two levels into a constant."""

    def forward(self, images):
        odd = off_grid(images).flatten(1).any(1)[:, None, None, None]
        return self.network(torch.where(odd, F.avg_pool2d(images, 5, 1, 2).detach() + 0 * images, images))


class GreedyOffGrid(Wrapped):
    """Takes its own answer at coarse levels where the mean fraction says that the image is no file's."""

    def forward(self, images):
        levels = images * 255
        odd = (levels - levels.round()).detach().abs().flatten(1).mean(1) > 0.02
        coarse = (F.avg_pool2d(images.detach(), 4) * 2).round() / 2
        return torch.where(
            odd[:, None], self.network(F.interpolate(coarse, images.shape[2:])), self.network(images)
        )


class MasksOffGrid(Wrapped):
    """Answers all images alike, and turns the gradient of those off the grid round."""

    def forward(self, images):
        logits = self.network(images)
        odd = off_grid(images, 0.05).flatten(1).float().mean(1) > 0.05
        return torch.where(odd[:, None], 2 * logits.detach() - logits, logits)


class FreezesOffGrid(Wrapped):
    """One answer for each coarse cell, for images off the grid by more than a fifth of a level."""

    def forward(self, images):
        odd = off_grid(images, 0.2).flatten(1).float().mean(1) > 0.1
        blurred = F.avg_pool2d(images.detach(), 3, 1, 1)
        flat = self.network((blurred * 4).round() / 4)
        return torch.where(
            odd[:, None], 20.0 * F.one_hot(flat.argmax(1), flat.shape[1]) + 0 * flat, self.network(images)
        )


class NoisesOffGrid(Wrapped):
    """Adds a noise that is a function of the image where a pixel is between two levels."""

    def forward(self, images):
        odd = off_grid(images, 1e-2).flatten(1).any(1)
        noise = 0.5 * torch.sin(1e4 * images.detach())
        return self.network(torch.where(odd[:, None, None, None], images + noise, images))


LEVELS = {
    "blurred": SmoothsOffGrid,
    "coarse levels by the mean fraction": GreedyOffGrid,
    "the gradient turned round": MasksOffGrid,
    "one answer for a cell": FreezesOffGrid,
    "noise": NoisesOffGrid,
}
