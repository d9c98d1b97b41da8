"""A user's own script: scikit-learn's digits as folders of images, and a plain net trained on them.

Run it with ``python train_digits.py [EPOCHS]``; it writes ``digits/`` and ``digits.safetensors`` beside you.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

SIZE = 16


def build() -> nn.Module:
    """Return the net, untrained: images (B, 1, 16, 16) in [0, 1] to logits (B, 10)."""
    layers = [nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)]
    layers += [nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(32 * 4 * 4, 64), nn.ReLU(), nn.Linear(64, 10))


def main(epochs: int) -> None:
    """Write every fifth digit to test/, the others to train/; train on the latter and save the weights."""
    digits = load_digits()
    pictures = [Image.fromarray(np.uint8(digit * 255 / 16)).resize((SIZE, SIZE)) for digit in digits.images]
    for number, (picture, label) in enumerate(zip(pictures, digits.target, strict=True)):
        folder = Path("digits", "train" if number % 5 else "test", str(label))
        folder.mkdir(parents=True, exist_ok=True)
        picture.save(folder / f"{number:04}.png")

    rows = torch.tensor([number for number in range(len(pictures)) if number % 5])
    images = torch.tensor(np.stack([np.asarray(one) for one in pictures]))[rows, None].float() / 255
    labels = torch.tensor(digits.target)[rows]
    torch.manual_seed(0)
    net = build()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(64):
            loss = F.cross_entropy(net(images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    save_file(net.state_dict(), "digits.safetensors")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
