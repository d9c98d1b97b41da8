"""Attack one of our defenses with the Adversarial Robustness Toolbox (ART).

    pip install adversarial-robustness-toolbox
    python examples/attack_with_art.py runs/demo --epsilon 0.1
    python examples/attack_with_art.py --synthetic                # no run, no data: a toy defense and toy images

ART works on NumPy arrays around a `PyTorchClassifier`. Its Square attack needs answers only, its PGD the gradient.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from subjects import Subject, of_run, synthetic

try:
    from art.attacks.evasion import ProjectedGradientDescent, SquareAttack
    from art.estimators.classification import PyTorchClassifier
except ImportError as error:
    raise SystemExit(f"this example needs ART: pip install adversarial-robustness-toolbox ({error})") from error


def main(arguments: list[str] | None = None) -> dict[str, float]:
    """Print and return accuracies: clean, under ART's PGD, and under its Square attack."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", type=Path, help="run directory, .safetensors file or hub folder")
    parser.add_argument("--synthetic", action="store_true", help="attack a toy defense instead")
    parser.add_argument("--dataset", default="fashion-mnist", help="what the run was trained on")
    parser.add_argument("--data-dir", type=Path, help="directory with the dataset's files")
    parser.add_argument("--epsilon", type=float, default=0.1, help="L-inf radius in pixel units of [0, 1]")
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--queries", type=int, default=200, help="of the Square attack")
    chosen = parser.parse_args(arguments)
    if (chosen.run is None) != chosen.synthetic:
        parser.error("give a run directory or --synthetic")
    subject: Subject = (
        synthetic(chosen.images)
        if chosen.synthetic
        else of_run(chosen.run, chosen.images, chosen.dataset, chosen.data_dir)
    )
    classifier = PyTorchClassifier(
        model=subject.defense,
        loss=torch.nn.CrossEntropyLoss(),
        input_shape=tuple(subject.images.shape[1:]),
        nb_classes=len(subject.classes),
        clip_values=(0.0, 1.0),
        device_type="cpu",
    )
    attacks = {
        "ART PGD": ProjectedGradientDescent(
            classifier, eps=chosen.epsilon, eps_step=chosen.epsilon / 10, max_iter=40, verbose=False
        ),
        "ART Square": SquareAttack(classifier, eps=chosen.epsilon, max_iter=chosen.queries, verbose=False),
    }
    found = {"clean": _accuracy(subject, subject.images)}
    for name, attack in attacks.items():
        attacked = attack.generate(x=subject.images.numpy(), y=subject.labels.numpy())
        found[name] = _accuracy(subject, torch.from_numpy(attacked))
    for name, accuracy in found.items():
        print(f"{name:>12}  {100 * accuracy:5.1f} % right")
    return found


@torch.no_grad()
def _accuracy(subject: Subject, images: torch.Tensor) -> float:
    return float((subject.defense(images).argmax(1) == subject.labels).float().mean())


if __name__ == "__main__":
    main()
