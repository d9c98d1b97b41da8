"""The known datasets: shape, classes, and the hash that every copy must have."""

from __future__ import annotations

from dataclasses import dataclass

from memory_defense.model_spec import ImageSpec, ModelSpec
from memory_defense.names import check_name


@dataclass(frozen=True, kw_only=True)
class DatasetSpec:
    """A dataset of images of one size with a train and a test split."""

    name: str
    """Key of `DATASETS`, or the name of a user's folder or file."""
    channels: int
    """C: 1 is grey, 3 is red, green, blue."""
    size: int
    """H, in pixels; W too, but for `width`."""
    classes: tuple[str, ...]
    """Names by label."""
    mean: tuple[float, ...]
    """Mean of the training pixels in [0, 1], one for each channel."""
    std: tuple[float, ...]
    """Standard deviation of the training pixels in [0, 1], one for each channel."""
    train_images: int
    """Images in the source's training split."""
    test_images: int
    """Images in the source's test split."""
    held_out_images: int = 5000
    """Training images set aside to choose weights by; in `DATASETS` a multiple of the number of classes."""
    sha256: str
    """SHA-256 of the decoded bytes: train images (N, C, H, W), train labels, test images, test labels.

    A label is one byte; in users' data, a little-endian int64.
    """
    width: int | None = None
    """W, in pixels, of images that are no squares."""

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width, in pixels."""
        return self.size, self.width or self.size

    @property
    def shape(self) -> str:
        """C x H x W, for people."""
        return " x ".join(map(str, (self.channels, *self.sides)))


_GARMENTS = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")

DATASETS: dict[str, DatasetSpec] = {
    "fashion-mnist": DatasetSpec(
        name="fashion-mnist",
        channels=1,
        size=28,
        classes=_GARMENTS,
        mean=(0.2860,),
        std=(0.3530,),
        train_images=60_000,
        test_images=10_000,
        sha256="ca3ab2a37f845e1b8ae23cab1b51749a3011ba3bf1d9016176d75cbaabac376f",
    ),
    "cifar10": DatasetSpec(
        name="cifar10",
        channels=3,
        size=32,
        classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
        train_images=50_000,
        test_images=10_000,
        sha256="32e5966899bde482c0ef7d076bf69809b4b1488c806f657a814cfca4646ec493",
    ),
}


def dataset_spec(name: str) -> DatasetSpec:
    """Return a dataset's description; raise ValueError for an unknown name."""
    check_name(name, DATASETS, "dataset")
    return DATASETS[name]


def image_spec(spec: DatasetSpec) -> ImageSpec:
    """Return the description of a dataset's images that a model keeps."""
    return ImageSpec(
        channels=spec.channels,
        size=spec.size,
        classes=spec.classes,
        mean=spec.mean,
        std=spec.std,
        width=spec.width,
    )


def images_of(model: ModelSpec) -> ImageSpec:
    """Return the images that a model reads; raise ValueError for an unknown dataset without a description."""
    return model.images or image_spec(dataset_spec(model.dataset))
