"""Evaluate somebody else's classifier with our attacks: a plain torch module, or a foolbox model.

    python examples/evaluate_foreign_model.py                     # a small network trained here on toy images
    python examples/evaluate_foreign_model.py --as foolbox        # the same behind foolbox's PyTorchModel
    python examples/evaluate_foreign_model.py --out record.json   # then: memdef report record.json

A model of your own that takes normalised images needs one line: make normalisation its first layer. From the
command line: memdef evaluate package.module:build --weights f.safetensors --data DIR --epsilon 8/255
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from subjects import toy_images
from torch import nn

import memory_defense
from memory_defense.evaluation.record import Record


class Normalised(nn.Module):
    """Images in [0, 1] to what the network was trained on."""

    def __init__(self, network: nn.Module, mean: float, std: float) -> None:
        super().__init__()
        self.network, self.mean, self.std = network, mean, std

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits (B, K) for images (B, C, H, W) in [0, 1]."""
        return self.network((images - self.mean) / self.std)


def trained(images: torch.Tensor, labels: torch.Tensor, classes: int, steps: int = 60) -> nn.Module:
    """Return a small network as anybody might train it, on normalised images."""
    torch.manual_seed(0)
    mean, std = float(images.mean()), float(images.std())
    network = nn.Sequential(
        nn.Conv2d(images.shape[1], 8, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.LazyLinear(classes),
    )
    model = Normalised(network, mean, std)
    model(images[:1])  # sets the lazy layer's size
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    return model.eval()


def main(arguments: list[str] | None = None) -> Record:
    """Print what survives, and return the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--as", dest="kind", choices=("torch", "foolbox"), default="torch")
    parser.add_argument("--epsilon", type=float, nargs="+", default=[0.02, 0.1], help="L-inf radii in [0, 1]")
    parser.add_argument("--attacks", default="brief", help="a suite, or names joined by commas")
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--out", type=Path, help="where the record goes")
    chosen = parser.parse_args(arguments)
    images, labels, classes = toy_images(chosen.images)
    model = trained(images, labels, len(classes))
    classifier = model
    if chosen.kind == "foolbox":  # it is called like any function: images in, logits out
        import foolbox

        classifier = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    record = memory_defense.evaluate(
        classifier, images, labels, epsilon=chosen.epsilon, attacks=chosen.attacks, out=chosen.out
    )
    print(f"clean           {100 * record.clean.accuracy:5.1f} % right")
    for worst in record.worst_case:
        found = "not tried" if worst.accuracy is None else f"{100 * worst.accuracy:5.1f} % right in the worst case"
        print(f"L-inf {worst.epsilon:<8g}  {found}")
    for line in record.audit:
        if line.verdict == "fail":
            print(f"audit: {line.check}: {line.remedy}")
    return record


if __name__ == "__main__":
    main()
