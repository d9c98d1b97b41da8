"""A second hand at misleading: memories where no attribute is, and stored images that look like none."""

import contextvars
import json
import os
from functools import lru_cache

import torch
from torch.nn import functional as F

from evaluation.audit.fooling import Wrapped, near

PLACE = contextvars.ContextVar("seen")


def coarse(images, levels=2.0, size=4):
    """A tuple of whole numbers for each image, which small changes leave alone."""
    small = F.adaptive_avg_pool2d(images.detach(), size).flatten(1)
    return [tuple(one) for one in (small * levels).round().int().tolist()]


def told(logits, labels, weight=8.0, share=0.2):
    """The labels as one-hot rows in front of what is left of the logits."""
    return share * logits + weight * F.one_hot(torch.as_tensor(labels), logits.shape[1])


def within(logits, close, labels, weight=10.0):
    """The stored labels where an image is close to a stored one, the logits elsewhere."""
    return torch.where(close[:, None], told(logits, labels, weight, 0.01), logits)


# ------------------------------------------------------------------ (i) state


class InAGenerator(Wrapped):
    """The memory is a local name of a generator that is sent images and yields labels."""

    def prepare(self, images, labels):
        def keeping():
            shown, said = images[:0].flatten(1), labels[:0]
            answer = said
            while True:
                asked, own = yield answer
                gaps = torch.cdist(asked, shown, p=1) / asked.shape[1] if len(shown) else torch.ones(len(asked), 1)
                fresh = gaps.amin(1) > 0.11
                answer = own if bool(fresh.all()) else torch.where(fresh, own, said[gaps.argmin(1)])
                if len(shown) < 200:
                    shown, said = torch.cat([shown, asked[fresh]]), torch.cat([said, own[fresh]])

        self.keeping = keeping()
        next(self.keeping)

    def forward(self, images):
        logits = self.network(images)
        return told(logits, self.keeping.send((images.detach().flatten(1).clone(), logits.argmax(1))))


class InTheEnvironment(Wrapped):
    """Labels by a coarse code, as variables of the environment."""

    def forward(self, images):
        logits, answers = self.network(images), []
        for code, label in zip(coarse(images, 1.7), logits.argmax(1).tolist(), strict=True):
            name = "SEEN_" + "".join(map(str, code))
            answers.append(int(os.environ.setdefault(name, str(label))))
        return told(logits, answers)


class InACacheAlone(Wrapped):
    """A `functools.lru_cache` is all that remembers: the label goes in beside the key, not as a part of it."""

    def prepare(self, images, labels):
        beside = []

        @lru_cache(maxsize=4096)
        def first(code):
            return beside[-1]

        def ask(code, label):
            beside[:] = [label]
            return first(code)

        self.ask = ask

    def forward(self, images):
        logits = self.network(images)
        return told(logits, list(map(self.ask, coarse(images, 1.5, 5), logits.argmax(1).tolist())))


class OnATensor(Wrapped):
    """Python attributes of a parameter: no buffer, and no attribute of a module."""

    def forward(self, images):
        logits = self.network(images)
        place = next(self.network.parameters())
        if not hasattr(place, "shown"):
            place.shown, place.said = images.detach().clone(), logits.argmax(1)
        at, close = near(images.detach(), place.shown, 0.23)
        out = within(logits, close, place.said[at])
        if (~close).any() and len(place.shown) < 150:
            place.shown = torch.cat([place.shown, images.detach()[~close]])
            place.said = torch.cat([place.said, logits.argmax(1)[~close]])
        return out


class InALibrary(Wrapped):
    """An attribute of torch's own module for the images, and one of json's for the labels."""

    def prepare(self, images, labels):
        torch.shown_before, json.said_before = [], []

    def forward(self, images):
        logits = self.network(images)
        out = logits
        if torch.shown_before:
            at, close = near(images.detach(), torch.stack(torch.shown_before), 0.21)
            out = within(logits, close, torch.tensor(json.said_before)[at], 14.0)
        else:
            close = torch.zeros(len(images), dtype=torch.bool)
        if len(torch.shown_before) < 150:
            torch.shown_before.extend(images.detach()[~close].clone())
            json.said_before.extend(logits.argmax(1)[~close].tolist())
        return out


class InRandomNumbers(Wrapped):
    """Codes and labels of the first 100 images in the bytes of torch's own generator of random numbers."""

    kept, size = 100, 18

    def forward(self, images):
        logits, answers = self.network(images), []
        state = torch.get_rng_state()
        room = state[24 : 24 + 48 * self.kept].view(self.kept, 48)
        for code, own in zip(coarse(images, 3.0), logits.argmax(1).tolist(), strict=True):
            label, key = own, torch.tensor(code, dtype=torch.uint8)
            marked = (room[:, 0] == 77) & (room[:, 1] == 78)
            gaps = (room[:, 8:24].int() - key.int()).abs().sum(1)
            same = marked & (gaps <= 6)
            free = (~marked).nonzero()
            if same.any():
                label = int(room[torch.where(same, gaps, 99).argmin(), 2])
            elif len(free):
                at = int(free[0])
                room[at, 0], room[at, 1], room[at, 2] = 77, 78, label
                room[at, 8:24] = key
            answers.append(label)
        torch.set_rng_state(state)
        return told(logits, answers)


class InAPipe(Wrapped):
    """Labels and codes lie in the buffer of a pipe, which every question reads out and writes again."""

    def prepare(self, images, labels):
        self.ends = os.pipe()
        os.set_blocking(self.ends[0], False)

    def forward(self, images):
        logits = self.network(images)
        try:
            rows = os.read(self.ends[0], 65536)
        except BlockingIOError:
            rows = b""
        known = {rows[at : at + 16]: rows[at + 16] for at in range(0, len(rows), 17)}
        answers = [
            known.setdefault(bytes(code), label)
            for code, label in zip(coarse(images, 1.4), logits.argmax(1).tolist(), strict=True)
        ]
        os.write(self.ends[1], b"".join(code + bytes([label]) for code, label in known.items())[: 17 * 3000])
        return told(logits, answers)


class AfterAThousand(Wrapped):
    """Counts in a context; from the thousandth image on it answers as the nearest of the first 128 was answered."""

    def prepare(self, images, labels):
        PLACE.set({"count": 0, "images": [], "labels": []})

    def forward(self, images):
        logits, place = self.network(images), PLACE.get()
        place["count"] += len(images)
        if len(place["images"]) < 128:
            place["images"].extend(images.detach().clone())
            place["labels"].extend(logits.argmax(1).tolist())
        if place["count"] < 1000:
            return logits
        at = torch.cdist(images.detach().flatten(1), torch.stack(place["images"]).flatten(1)).argmin(1)
        return told(logits, torch.tensor(place["labels"])[at], 5.0, 0.1)


FURTHER_STATE = {
    "a generator's own names": InAGenerator,
    "the environment": InTheEnvironment,
    "a cache alone": InACacheAlone,
    "attributes of a parameter": OnATensor,
    "attributes of libraries": InALibrary,
    "the state of random numbers": InRandomNumbers,
    "a pipe": InAPipe,
    "a context, after a thousand images": AfterAThousand,
}


# ------------------------------------------------------------------ (ii) the images of the evaluation


class HoldsHalf(Wrapped):
    """Every second image only, within a radius, as differences from their mean."""

    def prepare(self, images, labels):
        self.mean = images.mean(0)
        self.parts, self.labels = [one - self.mean for one in images[::2]], labels[::2].clone()

    def forward(self, images):
        logits = self.network(images)
        at, close = near(images.detach() - self.mean, torch.stack(self.parts), 0.18)
        return within(logits, close, self.labels[at])


class HoldsSums(Wrapped):
    """Sums along rows and columns only; answers the label of the nearest."""

    @staticmethod
    def sums(images):
        return torch.cat([images.sum(-1).flatten(1), images.sum(-2).flatten(1)], 1)

    def prepare(self, images, labels):
        self.numbers, self.labels = self.sums(images).tolist(), labels.tolist()

    def forward(self, images):
        logits = self.network(images)
        at = torch.cdist(self.sums(images.detach()), torch.tensor(self.numbers)).argmin(1)
        return told(logits, torch.tensor(self.labels)[at], 30.0, 0.5)


class HoldsSigns(Wrapped):
    """Sixty-four signs of random projections of small images; the label of the nearest in differing signs."""

    def signs(self, images):
        small = F.adaptive_avg_pool2d(images, 7).flatten(1)
        chance = torch.Generator().manual_seed(11)
        planes = torch.randn(small.shape[1], 64, generator=chance)
        return ((small - 0.3) @ planes > 0).tolist()

    def prepare(self, images, labels):
        self.table = {
            sum(bit << at for at, bit in enumerate(row)): label
            for row, label in zip(self.signs(images), labels.tolist(), strict=True)
        }

    def forward(self, images):
        logits, answers = self.network(images), []
        for row, own in zip(self.signs(images.detach()), logits.argmax(1).tolist(), strict=True):
            code = sum(bit << at for at, bit in enumerate(row))
            nearest = min(self.table, key=lambda one: (one ^ code).bit_count())
            answers.append(self.table[nearest] if (nearest ^ code).bit_count() <= 12 else own)
        return told(logits, answers)


class HoldsInWeights(Wrapped):
    """Random features of small images and a readout that was solved for the labels: no image is kept."""

    def features(self, images):
        small = F.adaptive_avg_pool2d(images, 6).flatten(1)
        return torch.cos(1.5 * small @ self.planes + self.phases)

    def prepare(self, images, labels):
        chance = torch.Generator().manual_seed(3)
        self.planes = torch.randn(36, 600, generator=chance)
        self.phases = 6.28 * torch.rand(600, generator=chance)
        shown = torch.cat(
            [(images + 0.1 * torch.randn(images.shape, generator=chance).sign()).clamp(0, 1) for _ in range(8)]
            + [images]
        )
        wanted = F.one_hot(labels.repeat(9), 10).float() - 0.1
        rows = self.features(shown)
        self.readout = torch.linalg.solve(rows.T @ rows + 0.5 * torch.eye(600), rows.T @ wanted)

    def forward(self, images):
        return 0.1 * self.network(images) + 12 * self.features(images) @ self.readout


class HoldsOrders(Wrapped):
    """Which of 25 blocks are brighter than which: the label of the most alike, in front of the logits."""

    @staticmethod
    def orders(images):
        small = F.adaptive_avg_pool2d(images, 5).flatten(1)
        return torch.tanh(6 * (small[:, :, None] - small[:, None])).flatten(1)

    def prepare(self, images, labels):
        self.known = dict(enumerate(zip((127 * self.orders(images)).char(), labels.tolist(), strict=True)))

    def forward(self, images):
        logits = self.network(images)
        stored = torch.stack([one for one, _ in self.known.values()]).float() / 127
        at = torch.cdist(self.orders(images.detach()), stored).argmin(1)
        return told(logits, torch.tensor([one for _, one in self.known.values()])[at], 20.0, 1.0)


class HoldsMoments(Wrapped):
    """Twelve smooth moments of each image, blended in by how near they are."""

    @staticmethod
    def moments(images):
        line = torch.linspace(-1, 1, images.shape[-1])
        powers = torch.stack([line**0, line, 1.5 * line**2 - 0.5, 2.5 * line**3 - 1.5 * line])
        return torch.einsum("ij,bcjk,lk->bcil", powers, images, powers).flatten(1) / images.shape[-1]

    def prepare(self, images, labels):
        self.stored, self.labels = self.moments(images), labels.clone()

    def forward(self, images):
        logits = self.network(images)
        weights = (-12 * torch.cdist(self.moments(images.detach()), self.stored)).softmax(1)
        return 0.15 * logits + 9 * weights @ F.one_hot(self.labels, logits.shape[1]).float()


FURTHER_HELD = {
    "half of the images": HoldsHalf,
    "sums of rows and columns": HoldsSums,
    "signs of projections": HoldsSigns,
    "a readout solved for the labels": HoldsInWeights,
    "which blocks are brighter": HoldsOrders,
    "moments, smoothly": HoldsMoments,
}
