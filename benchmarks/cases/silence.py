"""Long work, with its output in a file: what a user reads while it runs."""

from __future__ import annotations

import logging
import os
import re
import select
import signal
import sys
import time
from itertools import pairwise
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from cases.case import Case
from cases.observe import Observation, Verdict, short
from cases.toolkits import ART, AUTOATTACK, FOOLBOX, OURS, TORCHATTACKS, art_classifier, authors
from cases.toy import EPSILON, Small, gratings, trained
from memory_defense.contracts import Images, Logits

WATCHED = 70.0
"""Seconds that every toolkit is watched while it works."""
LONGEST = 25.0
"""Seconds without a line that are still right; 15 is what was asked for."""
PASS = 0.06
"""Seconds of a forward pass, spent asleep."""
FAR = re.compile(r"\d+\s*(/|of|out of)\s*\d+|\d+(\.\d+)?\s*%")
"""A line that says how far it is."""


class Slow(nn.Module):
    """Takes its time for every pass."""

    def __init__(self, classes: int = 4, net: Small | None = None) -> None:
        super().__init__()
        self.net = net or Small(classes)

    def forward(self, images: Images) -> Logits:
        """Return the logits (B, K)."""
        time.sleep(PASS)
        return self.net(images)


def _log(toolkit: str) -> list[Observation]:
    """Watch the lines that a child writes, with the times they come."""
    model = Slow(net=trained()).eval()
    if toolkit == OURS:
        _write_ours(model)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(write, 1)
        os.dup2(write, 2)
        os.close(read)
        try:
            _work(toolkit, model)
        finally:
            sys.stdout.flush()
            os._exit(0)
    os.close(write)
    try:
        times, lines, lasted = _lines(read)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    gap = max(later - earlier for earlier, later in pairwise([0.0, *times, lasted]))
    far = [line for line in lines if FAR.search(line)]
    verdict = Verdict.RIGHT if gap <= LONGEST and far else Verdict.SILENT
    last = f", such as: {far[-1].strip()}" if far else ""
    text = f"{len(far)} lines of progress in {lasted:.0f} s, longest silence {gap:.0f} s{last}"
    return [Observation(ASKED[toolkit], verdict, short(text))]


ASKED = {
    FOOLBOX: "LinfPGD, 1,000 steps",
    TORCHATTACKS: "AutoAttack, verbose, through save() in batches of 8",
    ART: "AutoAttack, in batches of 8",
    AUTOATTACK: "standard, its logger at DEBUG on stderr",
    OURS: "memdef evaluate --attacks pgd,apgd,apgd-t,pgd-t,gama",
}


def _lines(read: int) -> tuple[list[float], list[str], float]:
    """Return the times and texts of the lines that come, and when the writer ended or the watch did."""
    start, pending = time.monotonic(), b""
    times: list[float] = []
    lines: list[str] = []
    while (left := start + WATCHED - time.monotonic()) > 0:
        if not select.select([read], [], [], left)[0]:
            break
        part = os.read(read, 65536)
        if not part:
            break
        *whole, pending = re.split(rb"[\r\n]", pending + part)
        for one in whole:
            if FAR.search(text := one.decode(errors="replace")):
                times.append(time.monotonic() - start)
                lines.append(text)
    return times, lines, time.monotonic() - start


def _write_ours(model: Slow) -> None:
    from safetensors.torch import save_file

    from cases.folders import write_folder

    write_folder("data", *gratings(48))
    Path("slownet.py").write_text("from cases.silence import Slow as build\n", encoding="utf-8")
    save_file(model.state_dict(), "w.safetensors")


def _work(toolkit: str, model: Slow) -> None:
    images, labels = gratings(48)
    torch.manual_seed(0)
    if toolkit == FOOLBOX:
        import foolbox

        foolbox.attacks.LinfPGD(steps=1000)(
            foolbox.PyTorchModel(model, bounds=(0, 1)), images, labels, epsilons=EPSILON
        )
    elif toolkit == TORCHATTACKS:
        import torchattacks

        made = torchattacks.AutoAttack(model, eps=EPSILON / 4, n_classes=4, verbose=True)
        made.save(DataLoader(TensorDataset(images, labels), batch_size=8), save_path="found.pt")
    elif toolkit == ART:
        from art.attacks.evasion import AutoAttack

        wrapped = art_classifier(model, images, 4)
        made = AutoAttack(wrapped, eps=EPSILON / 4, eps_step=EPSILON / 16, batch_size=8)
        made.generate(images.numpy(), labels.numpy())
    elif toolkit == AUTOATTACK:
        logging.basicConfig(level=logging.DEBUG)
        made = authors(model, EPSILON / 4, version="standard")
        made.apgd_targeted.n_target_classes = made.fab.n_target_classes = 3
        made.run_standard_evaluation(images, labels)
    else:
        options = ["--weights", "w.safetensors", "--data", "data", "--epsilon", str(EPSILON / 4), "--out", "r.json"]
        sys.argv = ["memdef", "evaluate", "slownet:build", *options, "--attacks", "pgd,apgd,apgd-t,pgd-t,gama"]
        from memory_defense.cli import main

        main()


CASES = (
    Case(
        name="silent-log",
        kind="silence",
        situation="A long evaluation at one radius, with its output in a file (nohup, Slurm).",
        oracle=(
            f"Lines that say how far it is; watched for {WATCHED:.0f} s, the longest silence is at most "
            f"{LONGEST:.0f} s. Asked where the toolkit says most."
        ),
        helps="",
        ask=_log,
    ),
)
