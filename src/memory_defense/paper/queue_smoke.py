"""A minute on a rented machine before anything is trained there: seven steps; the first that fails ends it.

1. versions, the device, and whether float32 can be had exactly;
2. entries of the queue at toy size, and a PixelCNN that purifies;
3. steps at the real size: images a second, and the memory they take;
4. every attack, and the answers beside the processor's;
5. a training that is stopped goes on;
6. what comes back is what may come back;
7. the objective that would be translated by torch.compile, translated.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn

from memory_defense.attacks import ATTACKS, Pgd, attack
from memory_defense.contracts import Objective, Progress
from memory_defense.data.images import ImageSet, Splits
from memory_defense.defenses.memory.objective import MemoryObjective
from memory_defense.defenses.pixeldefend import PixelCnnObjective, PixelDefend
from memory_defense.evaluation.metrics import answers
from memory_defense.model_spec import ModelSpec
from memory_defense.paper.queue import Deadline, made_up, work
from memory_defense.paper.queue_parts import MOST_PARTS, PART_BYTES, read_parts, write_parts
from memory_defense.randomness import ImageDraws
from memory_defense.systems.build import build_classifier, build_defense
from memory_defense.threat import L2, Linf
from memory_defense.training.adversarial import Benign, Online
from memory_defense.training.fit import FitConfig, fit
from memory_defense.training.optimizer import OptimizerConfig
from memory_defense.training.precision import resolve
from memory_defense.training.speed import matrix_rate, wait_for
from memory_defense.training.trades import Trades
from memory_defense.training.weight_perturbation import WeightPerturbation
from memory_defense.wrappers import exact_float32

ENTRIES = ("cifar10-strong", "cifar10-strong-attacks")
"""Entries that are worked on at toy size: all of training, evaluation, audit, and the way back and forth."""

ALIKE = 1e-4
"""Largest difference of logits to the processor's, relative to the largest: float32 stays far below."""

_QUICK = {"steps": 3, "queries": 60, "restarts": 1, "targets": 2, "search_steps": 1, "evaluations": 10, "starts": 5}
_CONFIG = FitConfig(epochs=1, optimizer=OptimizerConfig(name="adamw", learning_rate=1e-3), averaging=0.998)


class SmokeError(ValueError):
    """A step failed, in words."""


class _Silent:
    """A progress that says nothing, and presses Ctrl-C after some steps."""

    def __init__(self, steps: float = float("inf")) -> None:
        self.left = steps

    def begin(self, what: str, total: int) -> None:
        """Start a stage."""

    def advance(self, steps: int, text: str = "") -> None:
        """Count steps."""
        del text
        self.left -= steps
        if self.left <= 0:
            raise KeyboardInterrupt

    def note(self, text: str) -> None:
        """Say nothing."""


@dataclass
class Smoke:
    """The seven steps.

    Parameters
    ----------
    device
        To try.
    place
        Directory to write to; created if needed.
    toy
        Networks and batches of toy size, for a processor; a GPU takes those of the queue.
    """

    device: torch.device
    place: Path
    toy: bool
    splits: Splits = field(init=False)

    def run(self, say: Callable[[str], None]) -> None:
        """Do every step; `say` hears a line of each, with its seconds.

        Raises
        ------
        SmokeError
            For a step whose result is wrong; what a step raises itself is passed on.
        """
        self.splits = made_up("cifar10", self.device)
        for number, step in enumerate(self.steps(), 1):
            started = time.perf_counter()
            found = step()
            wait_for(self.device)
            say(f"{number}. {found} ({time.perf_counter() - started:.1f} s)")

    def steps(self) -> tuple[Callable[[], str], ...]:
        """Return the steps in order; each returns what it found."""
        return self.versions, self.entries, self.rates, self.attacks, self.resumes, self.returns, self.translates

    def versions(self) -> str:
        """Name what is installed, and hold the settings of float32 to what was asked for."""
        with exact_float32():
            if torch.backends.cudnn.allow_tf32 or torch.get_float32_matmul_precision() != "highest":
                raise SmokeError("float32 cannot be had exactly here: TF32 stays on")
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else platform.processor()
        precision = resolve("auto", self.device)
        rate = 0.0 if self.toy else matrix_rate(self.device, precision) / 1e12
        measured = "" if self.toy else f", {rate:.0f} TFLOP/s in {precision}"
        return f"Python {platform.python_version()}, torch {torch.__version__}, {name or self.device}{measured}"

    def entries(self) -> str:
        """Work on some entries of the queue at toy size, and purify an image pixel by pixel."""
        for name in ENTRIES:
            deadline = Deadline(_Silent(), float("inf"))
            back = self.place / "back"
            assert work(name, self.place, self._toy_data, back=back, deadline=deadline, tiny=True)
        model = build_defense(
            ModelSpec(dataset="fashion-mnist", defense="pixeldefend", preset="small", selector="linear")
        ).to(self.device)
        assert isinstance(model, PixelDefend)
        grey = made_up("fashion-mnist", self.device)
        fit(
            model, PixelCnnObjective(initial_images=8), grey.train.first(16), replace(_CONFIG, batch_size=8), seed=0
        )
        purified = model.purify(grey.test.floats()[:1])
        if not bool(((purified >= 0) & (purified <= 1)).all()):
            raise SmokeError("a purified image left [0, 1]")
        return f"{' and '.join(ENTRIES)} at toy size, and an image purified by PixelCNN++"

    def _toy_data(self, dataset: str) -> Splits:
        return made_up(dataset, self.device)

    def rates(self) -> str:
        """Train some steps at the queue's size, of each objective that it spends most time with."""
        batch, steps = (8, 2) if self.toy else (512, 20)
        told: list[str] = []
        for name, model, objective in self._objectives():
            images = _repeated(self.splits.train, batch * steps)
            config = replace(_CONFIG, batch_size=batch)
            fit(model, objective, images.first(batch), config, seed=0)  # pays for what the others find ready
            if self.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(self.device)
            wait_for(self.device)
            started = time.perf_counter()
            fit(model, objective, images, config, seed=0)
            wait_for(self.device)
            rate = batch * steps / (time.perf_counter() - started)
            taken = torch.cuda.max_memory_allocated(self.device) / 2**30 if self.device.type == "cuda" else 0.0
            told.append(f"{name} {rate:,.0f} images/s" + (f" in {taken:.1f} GiB" if taken else ""))
        return f"batches of {batch}: " + "; ".join(told)

    def _objectives(self) -> list[tuple[str, nn.Module, Objective]]:
        network = "linear" if self.toy else "resnet50"
        online = Online(epsilon=8 / 255, warm_up=0, attack=Pgd(steps=2, stop_when_fooled=False))
        memory = ModelSpec(dataset="cifar10", preset="sound", selector=network)
        return [
            ("benign", build_classifier(network, "cifar10", 0, "smoke"), Benign()),
            ("online PGD-2", build_classifier(network, "cifar10", 0, "smoke"), online),
            ("memory", build_defense(memory), MemoryObjective()),
        ]

    def attacks(self) -> str:
        """Run every attack on 64 images, and hold the logits to the processor's."""
        network = "linear" if self.toy else "resnet18-silu"
        count = 8 if self.toy else 64
        model = build_classifier(network, "cifar10", 0, "smoke").eval()
        images = _repeated(self.splits.train, count).floats()
        here = answers(model, images.cpu())
        model.to(self.device)
        there = answers(model, images)
        apart = float((there.cpu() - here).abs().max() / here.abs().max())
        if not apart < ALIKE:
            raise SmokeError(f"logits differ from the processor's by {apart:.2g}, relative to the largest")
        labels = there.argmax(1)
        for name in ATTACKS:
            for ball in (Linf(8 / 255), L2(0.5)):
                made = attack(name)
                norms: tuple[str, ...] = getattr(made, "norms", (ball.norm,))
                if ball.norm not in norms:
                    continue
                made = attack(name, **{key: value for key, value in _QUICK.items() if hasattr(made, key)})
                draws = ImageDraws.of(0, "smoke", count, self.device)
                if not bool(ball.contains(made(model, images, labels, ball, draws), images).all()):
                    raise SmokeError(f"{name} left its {ball.norm} ball")
        return f"{len(ATTACKS)} attacks on {count} images; logits {apart:.1g} from the processor's"

    def resumes(self) -> str:
        """Stop a training after three steps, and let another process's worth of objects go on with it."""
        images, state = self.splits.train.first(64), self.place / "resume.safetensors"
        config = replace(_CONFIG, batch_size=8, epochs=2, checkpoint_every=1)

        def training(progress: Progress) -> nn.Module:
            model = build_classifier("linear", "cifar10", 0, "smoke")
            fit(model, Benign(), images, config, seed=0, state=state, progress=progress)
            return model

        state.unlink(missing_ok=True)
        try:
            training(_Silent(3))
        except KeyboardInterrupt:
            pass
        else:
            raise SmokeError("a training did not stop where it was told to")
        model = training(_Silent())
        if not all(bool(one.isfinite().all()) for one in model.parameters()):
            raise SmokeError("a training that went on ended with weights that are not finite")
        state.unlink()
        return "a training that was stopped went on"

    def returns(self) -> str:
        """Write what comes back, hold it to what may come back, and put it together again."""
        source, flat = self.place / "back" / ENTRIES[0], self.place / "parts"
        parts = write_parts(source, flat)
        sizes = [path.stat().st_size for path in flat.iterdir()]
        if any(path.is_dir() for path in flat.iterdir()) or len(sizes) > MOST_PARTS or max(sizes) > PART_BYTES:
            raise SmokeError(
                f"{flat} holds more than may come back: {len(sizes)} files, the largest {max(sizes):,}"
            )
        read_parts(flat, self.place / "unpacked")
        if not (self.place / "unpacked" / source.name).is_dir():
            raise SmokeError("what comes back could not be put together again")
        return f"{sum(sizes):,} bytes in {len(parts)} flat files, which came together again"

    def translates(self) -> str:
        """Translate the objective of the strong entries by torch.compile and take some steps."""
        if self.toy or self.device.type != "cuda" or find_spec("triton") is None:
            return "torch.compile is for a GPU with Triton; left out here"
        objective = WeightPerturbation(objective=Trades(epsilon=8 / 255, warm_up=0, steps=2, step=0.75))
        model = build_classifier("resnet18-silu", "cifar10", 0, "smoke")
        config = replace(_CONFIG, batch_size=256, compile=True)
        fit(model, objective, _repeated(self.splits.train, 768), config, seed=0)
        return "TRADES at perturbed weights, translated"


def _repeated(images: ImageSet, count: int) -> ImageSet:
    """Return so many images, by repetition."""
    rows = torch.arange(count, device=images.labels.device)
    from_row = rows % len(images)
    return ImageSet(images.images[from_row], images.labels[from_row], rows)
