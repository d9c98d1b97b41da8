"""Attack one of our defenses with foolbox: it is a module, images in [0, 1] in, logits out.

    python examples/attack_with_foolbox.py runs/demo --epsilon 0.1
    python examples/attack_with_foolbox.py --synthetic            # no run, no data: a toy defense and toy images

foolbox stands in for any library that differentiates a classifier. It follows the white box, whose gradient passes
through the choice of the memory slot. Our own evaluation tries every knowledge and keeps the worst, so its number
can only be lower; both are printed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import foolbox
import torch
from subjects import Subject, of_run, synthetic

import memory_defense


def main(arguments: list[str] | None = None) -> dict[str, float]:
    """Print and return accuracies: clean, under foolbox's PGD, and ours."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", type=Path, help="run directory, .safetensors file or hub folder")
    parser.add_argument("--synthetic", action="store_true", help="attack a toy defense instead")
    parser.add_argument("--dataset", default="fashion-mnist", help="what the run was trained on")
    parser.add_argument("--data-dir", type=Path, help="directory with the dataset's files")
    parser.add_argument("--epsilon", type=float, default=0.1, help="L-inf radius in pixel units of [0, 1]")
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--attacks", default="brief", help="ours: a suite, or names joined by commas")
    chosen = parser.parse_args(arguments)
    if (chosen.run is None) != chosen.synthetic:
        parser.error("give a run directory or --synthetic")
    subject: Subject = (
        synthetic(chosen.images)
        if chosen.synthetic
        else of_run(chosen.run, chosen.images, chosen.dataset, chosen.data_dir)
    )
    # Normalisation is the defense's own first layer, so foolbox gets no preprocessing, only the bounds.
    model = foolbox.PyTorchModel(subject.defense, bounds=(0, 1), device=subject.images.device)
    with torch.no_grad():
        clean = subject.defense(subject.images).argmax(1) == subject.labels
    torch.manual_seed(0)  # foolbox draws from the global generator
    attack = foolbox.attacks.LinfPGD(steps=40, rel_stepsize=0.1)
    _, _, fooled = attack(model, subject.images, subject.labels, epsilons=chosen.epsilon)
    record = memory_defense.evaluate(
        subject.defense, subject.images, subject.labels, epsilon=chosen.epsilon, attacks=chosen.attacks
    )
    found = {
        "clean": float(clean.float().mean()),
        "foolbox PGD": float((~fooled).float().mean()),
        "ours": record.worst_case[0].accuracy,
    }
    for name, accuracy in found.items():
        print(f"{name:>12}  {100 * accuracy:5.1f} % right")
    return found


if __name__ == "__main__":
    main()
