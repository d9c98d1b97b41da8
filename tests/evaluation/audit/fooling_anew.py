"""A third hand at misleading, with the page of the audit at hand: three more of each kind."""

import ctypes
import math
import queue
import threading

import torch
from torch import nn
from torch.nn import functional as F

from evaluation.audit.fooling import Wrapped, near
from evaluation.audit.fooling_answers import Behind, residual
from evaluation.audit.fooling_further import coarse, told, within

# ------------------------------------------------------------------ (i) state


class InACoroutine(Wrapped):
    """The memory is a local name of a coroutine that waits for images and hands out labels."""

    def prepare(self, images, labels):
        class Waiting:
            def __await__(self):
                return (yield self.answer)

        async def keeping():
            shown, wait = {}, Waiting()
            wait.answer = None
            while True:
                codes, own = await wait
                wait.answer = [shown.setdefault(code, label) for code, label in zip(codes, own, strict=True)]

        self.keeping = keeping()
        self.keeping.send(None)

    def forward(self, images):
        logits = self.network(images)
        return told(logits, self.keeping.send((coarse(images, 1.6), logits.argmax(1).tolist())), 7.0, 0.15)


class InAnotherThread(Wrapped):
    """A thread that waits at a queue keeps the images and labels in its own local names."""

    def prepare(self, images, labels):
        self.asked, self.answered = queue.Queue(), queue.Queue()

        def keeping(asked, answered):
            shown, said = None, None
            while True:
                images, own = asked.get()
                if shown is None:
                    shown, said = images, own
                at, close = near(images, shown, 0.22)
                answered.put((said[at], close))
                if len(shown) < 300:
                    shown, said = torch.cat([shown, images[~close]]), torch.cat([said, own[~close]])

        threading.Thread(target=keeping, args=(self.asked, self.answered), daemon=True).start()

    def forward(self, images):
        logits = self.network(images)
        self.asked.put((images.detach().clone(), logits.argmax(1)))
        labels, close = self.answered.get()
        return within(logits, close, labels, 12.0)


class AtAnAddress(Wrapped):
    """Labels by a hash of the coarse image, in memory of which only the address is kept."""

    room = 1 << 16

    def prepare(self, images, labels):
        memory = ctypes.create_string_buffer(self.room)
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(memory))
        self.address = ctypes.addressof(memory)

    def forward(self, images):
        logits, answers = self.network(images), []
        for code, own in zip(coarse(images, 1.3, 5), logits.argmax(1).tolist(), strict=True):
            place = ctypes.c_uint8.from_address(self.address + hash(code) % self.room)
            place.value = place.value or own + 1
            answers.append(place.value - 1)
        return told(logits, answers, 9.0, 0.3)


ANEW_STATE = {
    "a coroutine's own names": InACoroutine,
    "another thread's own names": InAnotherThread,
    "memory at an address": AtAnAddress,
}


# ------------------------------------------------------------------ (ii) the images of the evaluation


class HoldsSignsSmoothly(Wrapped):
    """Eighty signs of each image as whole numbers; the label counts the more the fewer signs differ."""

    def signs(self, images):
        small = F.adaptive_avg_pool2d(images, 6).flatten(1)
        planes = torch.randn(36, 80, generator=torch.Generator().manual_seed(21))
        return ((small - 0.4) @ planes > 0).tolist()

    def code(self, row):
        return sum(bit << at for at, bit in enumerate(row))

    def prepare(self, images, labels):
        rows = map(self.code, self.signs(images))
        self.table = list(zip(rows, labels.tolist(), strict=True))

    def forward(self, images):
        logits, rows = self.network(images), []
        for code in map(self.code, self.signs(images.detach())):
            weights = torch.zeros(logits.shape[1])
            for stored, label in self.table:
                weights[label] += 1 / (1 + math.exp(0.5 * ((stored ^ code).bit_count() - 20)))
            rows.append(weights)
        return 0.2 * logits + 6 * torch.stack(rows)


class HoldsInABump(Wrapped):
    """A sum of bumps around copies of the images that were moved at random, solved for the labels."""

    def features(self, images):
        return (-0.35 * torch.cdist(images.flatten(1), self.centres).square()).exp()

    def prepare(self, images, labels):
        chance = torch.Generator().manual_seed(8)
        moved = [images + 0.15 * torch.randn(images.shape, generator=chance) for _ in range(6)]
        self.centres = torch.cat(moved).flatten(1)
        rows, wanted = self.features(images), F.one_hot(labels, 10).float()
        gram = rows @ rows.T + 1e-3 * torch.eye(len(rows))
        self.readout = rows.T @ torch.linalg.solve(gram, wanted)

    def forward(self, images):
        return 0.1 * self.network(images) + 15 * self.features(images) @ self.readout


class HoldsInPython(Wrapped):
    """Bytes under a key; distances are summed by Python, and the label is blended in smoothly."""

    def prepare(self, images, labels):
        levels = (images * 255).round().int().flatten(1).tolist()
        self.rows = [bytes(one ^ (37 * at + 11) % 256 for at, one in enumerate(row)) for row in levels]
        self.labels = labels.tolist()

    def forward(self, images):
        logits, weights, said = self.network(images), [], []
        for row in (images.detach() * 255).flatten(1).tolist():
            best, label = 1e9, 0
            for stored, own in zip(self.rows, self.labels, strict=True):
                apart = sum(
                    abs(one - (other ^ (37 * at + 11) % 256))
                    for at, (one, other) in enumerate(zip(row, stored, strict=True))
                )
                best, label = min((best, label), (apart, own))
            weights.append(best / len(row) / 255)
            said.append(label)
        share = torch.sigmoid(60 * (0.13 - torch.tensor(weights)))[:, None]
        return (1 - share) * logits + share * told(logits, said, 8.0, 0.2)


ANEW_HELD = {
    "signs that count smoothly": HoldsSignsSmoothly,
    "bumps around moved copies": HoldsInABump,
    "bytes under a key, compared in Python": HoldsInPython,
}


# ------------------------------------------------------------------ (iii) images that no file could hold


class BySpectrum(Wrapped):
    """By the energy of the residuals' fast waves; such images are shrunk to their mean without a gradient."""

    def forward(self, images):
        waves = torch.fft.rfft2(residual(images)).abs().flatten(1)
        odd = waves[:, waves.shape[1] // 2 :].mean(1) > 0.3
        flat = images.detach().mean((2, 3), keepdim=True)
        squeezed = flat + 0.3 * (images.detach() - flat) + 0 * images
        return torch.where(odd[:, None], self.network(squeezed), self.network(images))


class ByTheMedian(Wrapped):
    """By the median residual; such images are answered as their mirror image in coarse blocks."""

    def forward(self, images):
        odd = residual(images).abs().flatten(1).median(1).values > 0.03
        blocks = F.interpolate(F.avg_pool2d(images.flip(3), 3), images.shape[2:])
        return torch.where(odd[:, None], 3 * self.network(blocks), self.network(images))


class ByDigits(Wrapped):
    """By the decimal digits of a dozen pixels, read as text; the gradient of such images is another network's."""

    def prepare(self, images, labels):
        with torch.random.fork_rng():
            torch.manual_seed(4)
            self.decoy = nn.Sequential(nn.Flatten(), nn.Linear(images[0].numel(), 10)).requires_grad_(False)

    def forward(self, images):
        odd = torch.tensor(
            [
                any(f"{255 * value:.2f}"[-2:] not in ("00", "99", "01") for value in row[::12])
                for row in images.detach().flatten(1).tolist()
            ]
        )
        logits, other = self.network(images), self.decoy(images)
        return torch.where(odd[:, None], logits.detach() + other - other.detach(), logits)


ANEW_LEVELS = {
    "the residuals' spectrum": BySpectrum,
    "the median residual": ByTheMedian,
    "digits read as text": ByDigits,
}


# ------------------------------------------------------------------ (iv) labels behind a live gradient


class LogitsBehind(Behind):
    """The network's own logits, in front of the gradient of a network that was never trained."""

    def answer(self, images, logits):
        return logits


class LeadOfAnother(Wrapped):
    """The classes are the network's, the numbers a decoy's own, with their true gradient, small near a switch."""

    def prepare(self, images, labels):
        with torch.random.fork_rng():
            torch.manual_seed(6)
            self.decoy = nn.Sequential(nn.Conv2d(1, 6, 3, 2), nn.Tanh(), nn.Flatten(), nn.LazyLinear(10))
            self.decoy(images[:1])
        self.decoy.requires_grad_(False)

    def forward(self, images):
        logits = self.network(images.detach())
        best = logits.topk(2).values
        sure = torch.tanh(3 * (best[:, :1] - best[:, 1:]))
        numbers = self.decoy(images).sort(1, descending=True).values
        numbers = 2 * numbers + torch.linspace(1, 0, 10)
        places = logits.argsort(1, descending=True)
        return sure * torch.zeros_like(numbers).scatter(1, places, numbers)


class VotesBehind(Behind):
    """Votes of nine moved copies, in front of the gradient of the logits, moved on by three classes."""

    def answer(self, images, logits):
        ways = [images.detach().roll((down, right), (2, 3)) for down in (-1, 0, 1) for right in (-1, 0, 1)]
        votes = [F.one_hot(self.network(one).argmax(1), logits.shape[1]) for one in ways]
        return torch.stack(votes).float().sum(0) + 0.5 * F.one_hot(logits.argmax(1), logits.shape[1])

    def other(self, images, logits):
        return 0.5 * logits.roll(3, 1)


ANEW_LABELS = {
    "logits, before a decoy": LogitsBehind,
    "a decoy's lead under the network's classes": LeadOfAnother,
    "votes, before a later class's gradient": VotesBehind,
}
