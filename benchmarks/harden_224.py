"""A classifier of 224-pixel images, hardened by the command line: what was gained, what it took, what a kill costs.

    python benchmarks/harden_224.py prepare --folder FOLDER
    python benchmarks/harden_224.py flow --folder FOLDER [--out docs/results/harden-224]
    python benchmarks/harden_224.py kill --folder FOLDER [--out docs/results/harden-224]

CIFAR-10, which must be on the machine, stands in for a set of that size: its images are stored at 32 pixels, and
enlarged to 224 by the option that a user would give, so that they have no more detail than before. `prepare` writes
the folders of images, and trains a small residual network on clean images alone. `flow` runs `memdef harden`,
`predict`, `export` and `evaluate` one after the other, each in a process with one thread; it writes what each
took, the time left that hardening announced beside what was left in truth, and whether the exported file's verdicts
are those of the run. `kill` takes the hardened run without its last record, kills the command in the middle of the
attack that makes it, continues, and compares.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ROOT = Path(__file__).resolve().parents[1]
SIZE, SEED, EPSILON, EPOCHS = 224, 0, "4/255", 2
TRAIN, TEST = 8000, 500
CHANNELS, PATCH = (16, 32, 64), 7
"""Of the residual blocks; pixels a side of the first layer's patches, those that one pixel of CIFAR-10 becomes."""
BENIGN_EPOCHS, BATCH, RATE = 1, 128, 4e-3
GEOMETRY = f"resize={SIZE},interpolation=nearest"
ATTACKS = "glimpse"
ENDS = 30.0
"""Seconds before the end from which on the time left is no longer held against the truth."""


class Residual(nn.Module):
    """Two 3 x 3 convolutions beside what they are given."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.second = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(after), nn.BatchNorm2d(after)])
        same = stride == 1 and before == after
        self.beside = nn.Identity() if same else nn.Conv2d(before, after, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C, H, W) from (B, C', H', W')."""
        inner = self.norms[1](self.second(F.relu(self.norms[0](self.first(x)))))
        return F.relu(inner + self.beside(x))


def build() -> nn.Sequential:
    """Return the network: images (B, 3, 224, 224) in [0, 1] to 10 logits."""
    torch.manual_seed(SEED)
    small, middle, large = CHANNELS
    return nn.Sequential(
        nn.Conv2d(3, small, PATCH, PATCH, bias=False),
        nn.BatchNorm2d(small),
        nn.ReLU(),
        Residual(small, middle, 2),
        Residual(middle, large, 2),
        Residual(large, large, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(large, 10),
    )


def answers(net: nn.Sequential, images: Tensor) -> Tensor:
    """Return the logits (B, 10) for grey levels (B, 3, 32, 32) that are enlarged: a patch is then of one colour."""
    return net[1:](F.conv2d(images.float().div(255), net[0].weight.sum((2, 3), keepdim=True)))


def train(images: Tensor, labels: Tensor) -> nn.Sequential:
    """Return the network, trained on clean images, every second batch mirrored, moved by at most 2 of 32 pixels."""
    torch.manual_seed(SEED)
    net = build().train()
    optimizer = torch.optim.AdamW(net.parameters(), RATE, weight_decay=5e-3)
    steps, done = BENIGN_EPOCHS * (len(images) // BATCH), 0
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps, pct_start=0.2)
    for _ in range(BENIGN_EPOCHS):
        for rows in torch.randperm(len(images)).split(BATCH):
            if len(rows) < BATCH:
                continue
            part = F.pad(images[rows], (2, 2, 2, 2))
            down, right = torch.randint(0, 5, (2,)).tolist()
            part = part[:, :, down : down + 32, right : right + 32]
            part = part.flip(-1) if done % 2 else part
            loss = F.cross_entropy(answers(net, part), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            done += 1
    return net.eval()


def prepare(folder: Path) -> None:
    """Write the images, the network's code and its weights into a folder."""
    from PIL import Image
    from safetensors.torch import save_file

    from memory_defense.data.images import load_dataset

    data = load_dataset("cifar10", offline=True)
    for split, some, count in (("train", data.train, TRAIN), ("test", data.test, TEST)):
        for number in range(count):
            place = folder / "images" / split / str(int(some.labels[number])) / f"{number:05}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(some.images[number].permute(1, 2, 0).numpy()).save(place)
    shutil.copy(__file__, folder / "small224.py")
    began, used = time.perf_counter(), time.process_time()
    net = train(data.train.images, data.train.labels)
    save_file(net.state_dict(), folder / "small224.safetensors")
    taken = {"images": len(data.train), "epochs": BENIGN_EPOCHS, "batch": BATCH, "learning_rate": RATE}
    taken |= {"wall_seconds": round(time.perf_counter() - began), "cpu_seconds": round(time.process_time() - used)}
    (folder / "benign.json").write_text(json.dumps(taken))


@dataclass
class Run:
    """One command in a process of its own, and the lines that it wrote to standard error with their times."""

    words: list[str]
    lines: list[tuple[float, str]] = field(default_factory=list[tuple[float, str]])
    wall: float = 0.0
    cpu: float = 0.0

    def start(self, folder: Path) -> subprocess.Popen[str]:
        """Start it in a folder, with one thread."""
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MEMDEF_PROGRESS_SECONDS": "5"}
        words = [sys.executable, "-m", "memory_defense", *self.words]
        return subprocess.Popen(
            words, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def watch(self, process: subprocess.Popen[str], *, until: re.Pattern[str] | None = None) -> bool:
        """Read what it says to its end, or until a line is like `until`; return whether one was."""
        began, before = time.perf_counter(), _children()
        assert process.stderr is not None
        for line in process.stderr:
            self.lines.append((time.perf_counter() - began, line.rstrip()))
            if until is not None and until.search(line):
                return True
        assert process.stdout is not None
        said = process.stdout.read()
        if process.wait():
            raise SystemExit("\n".join(line for _, line in self.lines[-5:]) + said)
        self.wall, self.cpu = time.perf_counter() - began, _children() - before
        return False

    def facts(self) -> dict[str, Any]:
        """Return what goes into the record."""
        command = " ".join(["memdef", *self.words])
        return {"command": command, "wall_seconds": round(self.wall, 1), "cpu_seconds": round(self.cpu, 1)}


def _children() -> float:
    """Return the seconds of processor time of all processes that ended."""
    used = os.times()
    return used.children_user + used.children_system


def done(folder: Path, *words: str) -> Run:
    """Run a command to its end."""
    run = Run(list(words))
    run.watch(run.start(folder))
    print(json.dumps(run.facts()), flush=True)
    return run


def harden_words(out: str) -> tuple[str, ...]:
    """Return the command that hardens."""
    net = ("small224:build", "--weights", "small224.safetensors", "--data", "images", "--geometry", GEOMETRY)
    how = ("--without-memory", "--epsilon", EPSILON, "--epochs", str(EPOCHS), "--attacks", ATTACKS)
    return ("harden", *net, *how, "--seed", str(SEED), "--threads", "1", "--out", out)


_LEFT = re.compile(r"about (?:(\d+) h )?(?:(\d+) min ?)?(?:(\d+) s )?left in all")


def announced(run: Run) -> list[dict[str, Any]]:
    """Return the time left that a run announced, beside what was left in truth."""
    found: list[dict[str, Any]] = []
    for at, line in run.lines:
        if said := _LEFT.search(line):
            hours, minutes, seconds = (int(one or 0) for one in said.groups())
            left, truth = 3600 * hours + 60 * minutes + seconds, run.wall - at
            part = line.partition(":")[0]
            found.append({"at": round(at), "part": part, "said": left, "true": round(truth)})
    return found


def judged(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the factors between what was announced and the truth, from the second minute on."""
    counted = [one for one in rows if one["at"] >= 60 and one["true"] >= ENDS]
    factors = [one["said"] / one["true"] for one in counted]
    within = sum(1 / 1.5 <= one <= 1.5 for one in factors)
    return {
        "announcements": len(counted),
        "within_1.5": within,
        "least_factor": round(min(factors), 2),
        "most_factor": round(max(factors), 2),
    }


def same_verdicts(one: Path, other: Path) -> dict[str, Any]:
    """Return on how many images two records agree."""
    from memory_defense.evaluation.record import Record
    from memory_defense.evaluation.verdicts import verdicts_of

    first, second = (verdicts_of(Record.read(path), path) for path in (one, other))
    assert first.ids == second.ids
    equal = [a == b for a, b in zip(first.predictions, second.predictions, strict=True)]
    standing = zip(first.balls[-1].standing, second.balls[-1].standing, strict=True)
    alike = [a == b for a, b in standing]
    return {"images": len(equal), "same_prediction": sum(equal), "same_verdict": sum(alike)}


def flow(folder: Path, out: Path) -> None:
    """Harden, predict, export and evaluate the exported file; write what it took and what it gave."""
    from memory_defense.machine import processor

    one = ("--threads", "1")
    hardened = done(folder, *harden_words("hardened"))
    (folder / "hardened.log").write_text("\n".join(f"{at:.1f} {line}" for at, line in hardened.lines))
    first = [str(path.relative_to(folder)) for path in sorted((folder / "images" / "test" / "3").iterdir())[:4]]
    predicted = done(folder, "predict", "hardened", *first, *one)
    exported = done(folder, "export", "hardened", "--format", "onnx", "--force", "--out", "hardened.onnx")
    asked = ("--data", "images", "--epsilon", EPSILON, "--attacks", ATTACKS)
    again = done(folder, "evaluate", "hardened.onnx", *asked, *one, "--out", "again.json")
    rows = announced(hardened)
    record = {
        "date": datetime.now(UTC).date().isoformat(),
        "processor": processor(),
        "torch": torch.__version__,
        "threads": 1,
        "seed": SEED,
        "images": f"CIFAR-10 enlarged from 32 to {SIZE} pixels ({GEOMETRY})",
        "benign_training": json.loads((folder / "benign.json").read_text()),
        "commands": [run.facts() for run in (hardened, predicted, exported, again)],
        "time_left": judged(rows) | {"counted": f"from 60 s on, while {ENDS:.0f} s or more remained", "rows": rows},
        "exported_file": same_verdicts(folder / "hardened" / "record.json", folder / "again.json"),
        "gained": (folder / "hardened" / "gained.txt").read_text(),
    }
    out.mkdir(parents=True, exist_ok=True)
    for name in ("original.json", "record.json"):
        shutil.copy(folder / "hardened" / name, out / name)
    shutil.copy(folder / "again.json", out / "exported.json")
    (out / "flow.json").write_text(json.dumps(record, indent=1) + "\n")


def kill(folder: Path, out: Path) -> None:
    """Kill a hardening inside its last attack, continue it, and write how much work was lost."""
    from memory_defense.evaluation.place import state_path
    from memory_defense.evaluation.record import Record

    whole, other = folder / "hardened", folder / "killed"
    shutil.rmtree(other, ignore_errors=True)
    shutil.copytree(whole, other)
    for path in other.glob("record.*"):
        path.unlink()
    stopped = Run(list(harden_words("killed")))
    process = stopped.start(folder)
    stopped.watch(process, until=re.compile(r"attacking the fine-tuned.*attacking \d+/\d+: "))
    begun = time.time()
    time.sleep(10)  # in the middle of it
    process.kill()
    killed = time.time()
    process.wait()
    state = state_path(other / "record.json")
    lost = killed - (state.stat().st_mtime if state.exists() else begun)
    again = done(folder, *harden_words("killed"))
    records = [Record.read(place / "record.json") for place in (whole, other)]
    said = next((line for _, line in again.lines if "going on where" in line), "nothing had been saved yet")
    found = {
        "killed_after_seconds": round(stopped.lines[-1][0] + 10, 1),
        "killed_in": stopped.lines[-1][1],
        "seconds_since_the_last_save": round(lost, 1),
        "continued": again.facts() | {"said": said},
        "same_record": records[0].worst_case == records[1].worst_case and records[0].clean == records[1].clean,
        "verdicts": same_verdicts(whole / "record.json", other / "record.json"),
    }
    (out / "kill.json").write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


def main() -> None:
    """Do one of the three."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("prepare", "flow", "kill"))
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results" / "harden-224")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    if chosen.part == "prepare":
        prepare(chosen.folder)
    else:
        {"flow": flow, "kill": kill}[chosen.part](chosen.folder.resolve(), chosen.out)


if __name__ == "__main__":
    main()
