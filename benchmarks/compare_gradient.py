"""FGSM and PGD-40 in L-inf 0.1 (step 0.01) beside the peers, and beside bare passes of the network.

The whole set goes in with one call, or a caller feeds 32 images at a time. ``floor`` rows are passes without an
attack around them: 256 images as a plain loop would send them, and channels-last as ours does. ``replay`` makes
the very passes that our run made, the same images in the same micro-batches; what ours takes beyond it is its own
logic.

    python benchmarks/compare_gradient.py
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from measure import Counted, Job, Outcome, Trace, measure
from memory_defense.attacks import Fgsm, Pgd
from memory_defense.contracts import Images, Labels
from memory_defense.threat import Linf
from memory_defense.wrappers import frozen
from nets import EPSILON
from peers import fed, fgsm, ours, pgd
from report import Row, Subject, options, save, splits, subject, table

BALL = Linf(EPSILON)
STEP, STEPS, FED = 0.01, 40, 32
FEW = (10, 14)
"""Steps of our own sizes. Ten leave an image more or less than the peers' 40 of one size, fourteen no more in the
mean over seeds (`compare_steps.py`); the strength stands in the same row."""
COLUMNS = {
    "job": "job",
    "by": "by",
    "settings": "settings",
    "cpu_s": "CPU s",
    "times_ours": "times ours",
    "wall_s": "wall s",
    "robust": "robust accuracy",
    "forward": "forward",
    "backward": "backward",
}


def bare_pass(model: Counted, images: Images, labels: Labels) -> Tensor:
    """Return the gradient of one forward and backward pass."""
    with torch.enable_grad():
        leaf = images.detach().requires_grad_()
        return torch.autograd.grad(F.cross_entropy(model(leaf), labels, reduction="sum"), leaf)[0]


def bare(passes: int, batch: int, channels_last: bool) -> Job:
    """Return a job of forward and backward passes of all images, nothing else."""
    layout = torch.channels_last if channels_last else torch.contiguous_format

    def run(model: Counted, images: Images, labels: Labels, seed: int) -> Images:
        del seed
        laid_out = [part.contiguous(memory_format=layout) for part in images.split(batch)]
        with frozen(model):
            for _ in range(passes):
                for part, targets in zip(laid_out, labels.split(batch), strict=True):
                    bare_pass(model, part, targets)
        return images

    name = f"floor: {passes} pass(es), batch {batch}" + (", channels-last" if channels_last else "")
    return Job(name, "floor", "autograd.grad, frozen parameters", run)


def replay(job: Job) -> tuple[Job, Job]:
    """Return the job, keeping its trace, and a job that makes the same passes without the logic."""
    kept: list[Trace] = []

    def keep(model: Counted, images: Images, labels: Labels, seed: int) -> Images:
        found = job.run(model, images, labels, seed)
        kept[:] = [model.trace]
        return found

    def run(model: Counted, images: Images, labels: Labels, seed: int) -> Images:
        del seed
        pixels = images.contiguous(memory_format=torch.channels_last)
        with frozen(model), torch.no_grad():
            for size, backward in kept[0]:
                if backward:
                    bare_pass(model, pixels[:size], labels[:size])
                else:
                    model(pixels[:size])
        return images

    again = Job(f"floor: replay of {job.name}", "floor", "the passes of the row above", run)
    return Job(job.name, job.by, job.settings, keep), again


def jobs() -> list[Job]:
    """Return every line, FGSM first."""
    found: list[Job] = []
    for peer in ("torchattacks", "foolbox", "ART", "cleverhans"):
        batches = "its default, batches of 32" if peer == "ART" else "one call"
        found += [
            Job(f"FGSM {peer}", peer, batches, fgsm(peer, EPSILON)),
            Job(f"PGD {peer}", peer, batches, pgd(peer, EPSILON, STEP, STEPS)),
        ]
        if peer != "ART":
            found += [
                Job(f"FGSM {peer} fed", peer, f"fed {FED}", fed(fgsm(peer, EPSILON), FED)),
                Job(f"PGD {peer} fed", peer, f"fed {FED}", fed(pgd(peer, EPSILON, STEP, STEPS), FED)),
            ]
    attack = Pgd(steps=STEPS, step_size=STEP)
    found += [
        *replay(Job("FGSM ours", "ours", "one call", ours(Fgsm(), BALL))),
        Job("FGSM ours fed", "ours", f"fed {FED}", fed(ours(Fgsm(), BALL), FED)),
        *replay(Job("PGD ours", "ours", "one call", ours(attack, BALL))),
        Job("PGD ours fed", "ours", f"fed {FED}", fed(ours(attack, BALL), FED)),
        Job("PGD ours, every step", "ours", "stop_when_fooled=False", ours(attack.for_transfer(), BALL)),
        Job("PGD ours, own step sizes", "ours", "40 steps along a cosine", ours(Pgd(steps=STEPS), BALL)),
        *(one for few in FEW for one in own_steps(few)),
        *(bare(steps, *how) for steps in (1, STEPS) for how in ((256, False), (256, True))),
    ]
    return sorted(found, key=lambda job: not ("FGSM" in job.name or "floor: 1 " in job.name))


def own_steps(few: int) -> tuple[Job, Job]:
    """Return the jobs of so many steps of our own sizes: in one call, and fed."""
    run = ours(Pgd(steps=few), BALL)
    return (
        Job(f"PGD ours, {few} own steps", "ours", f"{few} steps along a cosine", run),
        Job(f"PGD ours, {few} own steps, fed", "ours", f"the same, fed {FED}", fed(run, FED)),
    )


def lines(outcomes: dict[str, Outcome]) -> list[Row]:
    """Return the rows of one network; times are in units of ours in one call."""
    fastest = {name: float(outcomes[f"{name} ours"].row()["cpu_s"]) for name in ("FGSM", "PGD")}
    return [
        outcome.row(fastest["FGSM" if "FGSM" in name or "floor: 1 " in name else "PGD"])
        for name, outcome in outcomes.items()
    ]


def overhead(subject: Subject, outcomes: dict[str, Outcome]) -> str:
    """Return in words what our logic costs on top of its passes."""
    parts = []
    for name in ("FGSM ours", "PGD ours"):
        taken = zip(outcomes[name].cpu, outcomes[f"floor: replay of {name}"].cpu, strict=True)
        ratios = sorted(mine / floor for mine, floor in taken)
        parts.append(f"{name} takes {ratios[len(ratios) // 2]:.2f} times its passes")
    return f"On {subject.name}: " + ", ".join(parts) + ".\n"


def main() -> None:
    """Measure both networks and write the tables."""
    parser = options(__doc__, images=512)
    parser.add_argument("--nets", nargs="+", default=["standard", "robust"])
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    data = splits()
    results: dict[str, list[Row]] = {}
    tables: list[str] = []
    for name in asked.nets:
        chosen = subject(name, data, asked.images)
        outcomes = measure(
            jobs(),
            chosen.network,
            chosen.images,
            chosen.labels,
            BALL,
            repetitions=asked.repetitions,
            seed=asked.seed,
        )
        results[name] = lines(outcomes)
        title = f"FGSM and PGD-{STEPS} on {name}, {asked.images} images, clean accuracy {chosen.clean:.3f}"
        tables += [table(title, COLUMNS, results[name]), overhead(chosen, outcomes)]
    save("gradient", asked, results, tables)


if __name__ == "__main__":
    main()
