"""More that misleads: state beyond Python's own tables, smooth and spectral memories, counted levels."""

import itertools
import os
import tempfile
import threading
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from evaluation.audit.fooling import Wrapped, near


class BehindADescriptor(Wrapped):
    """Keeps its last 400 questions behind a number that stands for an open file; nothing is opened any more."""

    radius = 0.2

    def prepare(self, images, labels):
        self.file = os.open(Path(tempfile.mkdtemp()) / "seen", os.O_RDWR | os.O_CREAT)
        self.row = 4 * (images[0].numel() + 1)
        os.pwrite(self.file, bytes(8), 0)

    def forward(self, images):
        logits = self.network(images)
        count = int.from_bytes(os.pread(self.file, 8, 0), "little")
        close, out = torch.zeros(len(images), dtype=torch.bool), logits
        if kept := min(count, 400):
            raw = np.frombuffer(os.pread(self.file, kept * self.row, 8), np.float32).reshape(kept, -1)
            stored = torch.from_numpy(raw.copy())
            at, close = near(images.detach(), stored[:, :-1], self.radius)
            told = F.one_hot(stored[at, -1].long(), logits.shape[1])
            out = torch.where(close[:, None], 10.0 * told + 0.3 * logits, logits)
        for image, label in zip(images.detach()[~close], logits.argmax(1)[~close], strict=True):
            row = np.append(image.flatten().numpy(), np.float32(label)).astype(np.float32)
            os.pwrite(self.file, row.tobytes(), 8 + (count % 400) * self.row)
            count += 1
        os.pwrite(self.file, count.to_bytes(8, "little"), 0)
        return out


class InAThread(Wrapped):
    """Keeps a label for each coarse hash in a thread's own names."""

    def prepare(self, images, labels):
        self.own = threading.local()

    def forward(self, images):
        logits, known = self.network(images), self.own.__dict__.setdefault("known", {})
        coarse = (F.adaptive_avg_pool2d(images.detach(), 4).flatten(1) * 1.6).round().int().tolist()
        told = [
            known.setdefault(tuple(one), label)
            for one, label in zip(coarse, logits.argmax(1).tolist(), strict=True)
        ]
        return 0.2 * logits + 6 * F.one_hot(torch.tensor(told), logits.shape[1])


class AfterSoMany(Wrapped):
    """Counts without a number of its own; after 200 images it answers by the nearest of the first ones."""

    def prepare(self, images, labels):
        self.count, self.kept = itertools.count(), []

    def forward(self, images):
        logits = self.network(images)
        for image, label in zip(images.detach(), logits.argmax(1).tolist(), strict=True):
            if next(self.count) < 200:
                self.kept.append((image.clone(), label))
        if len(self.kept) < 200:
            return logits
        stored = torch.stack([one.flatten() for one, _ in self.kept])
        labels = torch.tensor([one for _, one in self.kept])
        at = torch.cdist(images.detach().flatten(1), stored).argmin(1)
        return 0.1 * logits + 5 * F.one_hot(labels[at], logits.shape[1])


class HoldsScrambled(Wrapped):
    """Stores the images with their bits turned round, and blends in the stored label smoothly within a radius."""

    radius, slope = 0.22, 40

    def prepare(self, images, labels):
        self.bits = 255 - (images * 255).round().numpy().astype(np.uint8)[..., ::-1]
        self.labels = labels.clone()

    def forward(self, images):
        stored = torch.from_numpy((255 - self.bits[..., ::-1]).astype(np.float32) / 255)
        distance = torch.cdist(images.flatten(1), stored.flatten(1), p=float("inf")).min(1)
        weight = torch.sigmoid(self.slope * (self.radius - distance.values))[:, None]
        logits = self.network(images)
        told = 8 * F.one_hot(self.labels[distance.indices], logits.shape[1])
        return logits * (1 - weight) + weight * (0.3 * logits + told)


class HoldsSpectra(Wrapped):
    """Stores the low frequencies of each image under a key, and answers the label of the nearest in a radius."""

    radius = 2.2

    def spectrum(self, images):
        place = torch.arange(images.shape[-1]).float()
        waves = torch.cos(torch.pi / len(place) * (place[None] + 0.5) * place[:5, None])
        return torch.einsum("ij,bcjk,lk->bcil", waves, images, waves).flatten(1)[:, 1:] / 6

    def prepare(self, images, labels):
        spectra = self.spectrum(images)
        self.key = torch.randn(1, spectra.shape[1], generator=torch.Generator().manual_seed(1)).exp()
        self.stored, self.labels = spectra * self.key, labels.clone()

    def forward(self, images):
        logits = self.network(images)
        distance = torch.cdist(self.spectrum(images.detach()), self.stored / self.key).min(1)
        told = 8.0 * F.one_hot(self.labels[distance.indices], logits.shape[1])
        return torch.where((distance.values < self.radius)[:, None], 0.05 * logits + told, logits)


class HoldsLogits(Wrapped):
    """Mixes the logits that the network gave the stored images, shuffled and shifted, by how near they are."""

    def view(self, images):
        size = images[0].numel()
        order = torch.randperm(size, generator=torch.Generator().manual_seed(2))
        return (images.flatten(1) * 1.7 + torch.linspace(-1, 1, size))[:, order]

    def prepare(self, images, labels):
        self.stored = self.view(images)
        with torch.no_grad():
            self.said = self.network(images)

    def forward(self, images):
        return 2 * (-2 * torch.cdist(self.view(images), self.stored)).softmax(1) @ self.said


class OtherwiseOffGrid(Wrapped):
    """What no file could hold is answered at coarse levels, with a gradient of 0."""

    def odd(self, images):
        raise NotImplementedError

    def forward(self, images):
        coarse = self.network((F.avg_pool2d(images.detach(), 3, 1, 1) * 2).round() / 2)
        flat = 3 * coarse + 0 * images.flatten(1).sum(1, keepdim=True)
        return torch.where(self.odd(images.detach())[:, None], flat, self.network(images))


class CountsLevels(OtherwiseOffGrid):
    """Tells such images by how many different values they have."""

    def odd(self, images):
        fine = [len((one * 16320).round().unique()) for one in images]
        whole = [len((one * 255).round().unique()) for one in images]
        return torch.tensor(fine) > torch.tensor(whole) + 3


class SumsLevels(OtherwiseOffGrid):
    """Tells such images by the sum of their levels, which is a whole number for a file."""

    def odd(self, images):
        total = (images.double() * 255).flatten(1).sum(1)
        return (total - total.round()).abs() > 0.01


class HalfPrecision(OtherwiseOffGrid):
    """Tells such images by what rounding them to another type moves."""

    def odd(self, images):
        return (images.half().float() * 255 - (images * 255).round()).abs().flatten(1).amax(1) > 0.2


LEARNING_ELSEWHERE = {
    "an open file's number": BehindADescriptor,
    "a thread's own names": InAThread,
    "a counter that is no number": AfterSoMany,
}
HOLDING_MORE = {
    "scrambled bits, smoothly within a radius": HoldsScrambled,
    "low frequencies under a key": HoldsSpectra,
    "logits, mixed by nearness": HoldsLogits,
}
LEVELS_MORE = {
    "counted levels": CountsLevels,
    "the sum of levels": SumsLevels,
    "rounding to another type": HalfPrecision,
}
