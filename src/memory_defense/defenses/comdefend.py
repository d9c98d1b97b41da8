"""ComDefend (Jia et al., CVPR 2019, arXiv 1811.12673): an image is compressed to bits and rebuilt from them.

    b = 1[sigmoid(ComCNN(x)) > 1/2];   answer = classifier(RecCNN(b))

The threshold has no gradient, which is no defense: ``end-to-end`` gives the sigmoid's on the way back (straight
through, Bengio et al. 2013) and ``identity`` the identity's for the whole purifier (Athalye et al. 2018).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from memory_defense.checks import check_at_least
from memory_defense.contracts import Batch, Classifier, Draws, Images
from memory_defense.defenses.losses import LossTerms
from memory_defense.defenses.purification import Purification, Purified
from memory_defense.names import check_name
from memory_defense.networks.comdefend import CompressionNetwork, comdefend_plan
from memory_defense.networks.layers import check_side
from memory_defense.randomness import ImageDraws
from memory_defense.wrappers import Eot, StraightThrough, replace_value

PATCH = 32
"""H = W of the patches that larger images are cut into."""

EXPECTATION_SAMPLES = 16
"""Passes averaged by the surrogate ``expectation``."""


def to_patches(images: Images, side: int) -> Tensor:
    """Return (B, P, C, side, side): images cut into patches, row by row, borders repeated to fill the last ones."""
    count, channels, height, width = images.shape
    padded = F.pad(images, (0, -width % side, 0, -height % side), mode="replicate")
    rows, columns = padded.shape[2] // side, padded.shape[3] // side
    grid = padded.reshape(count, channels, rows, side, columns, side)
    return grid.permute(0, 2, 4, 1, 3, 5).reshape(count, rows * columns, channels, side, side)


def from_patches(patches: Tensor, height: int, width: int) -> Images:
    """Return images (B, C, height, width) from patches (B, P, C, side, side) as `to_patches` orders them."""
    count, _, channels, side, _ = patches.shape
    rows, columns = -(-height // side), -(-width // side)
    grid = patches.reshape(count, rows, columns, channels, side, side).permute(0, 3, 1, 4, 2, 5)
    return grid.reshape(count, channels, rows * side, columns * side)[:, :, :height, :width]


@dataclass(frozen=True, kw_only=True, eq=False)
class ComDefendLosses(LossTerms):
    """The terms of the objective, all scalars."""

    reconstruction: Tensor
    """Mean squared error over pixels and images, in pixel units."""
    code_size: Tensor
    """Mean square of the soft code, before its factor lambda."""


@dataclass(frozen=True, kw_only=True)
class ComDefendObjective:
    """The training objective of section 3: error of the reconstruction and size of the code; trains the `purifier`.

    Raises
    ------
    ValueError
        For a negative factor.
    """

    noise_std: float = 20.0
    """phi, the standard deviation of the noise on the code before the sigmoid, in train mode only."""
    code_weight: float = 1e-4
    """lambda, the factor of the code's mean square."""

    def __post_init__(self) -> None:
        check_at_least(0, noise_std=self.noise_std, code_weight=self.code_weight)

    def __call__(self, model: ComDefend, batch: Batch) -> ComDefendLosses:
        """Return the losses of one batch; where its images were attacked, their clean counterparts are used."""
        patches = model.cut(batch.clean)  # (B, P, C, h, w)
        goal = patches.flatten(0, 1)
        soft = model.soft_code(patches, batch.draws, self.noise_std if model.training else 0.0)
        rebuilt = model.purifier.reconstructor(soft)
        error = (rebuilt.float() - goal.float()).square().mean()
        code_size = soft.float().square().mean()
        return ComDefendLosses(
            total=error + self.code_weight * code_size, reconstruction=error, code_size=code_size
        )


class ComDefend(Purification):
    """A classifier that sees images rebuilt from their compressed bits.

    Parameters
    ----------
    classifier
        See `Purification`.
    purifier
        ComCNN and RecCNN, the part that is trained.
    patch
        Square images up to this side are compressed whole, all others in patches of this side.
    soft_reconstruction
        Rebuild from the sigmoid's values instead of the bits, as the released Fashion-MNIST script does. Nothing
        is compressed then, and every step has a gradient.
    test_noise_std
        Standard deviation of Gaussian noise on the code before the sigmoid, drawn anew at every call; 0 is the
        paper's deterministic defense. The released scripts leave noise on at test (1 or 20). Each call's draws are
        seeded by the global generator, as dropout is: fix it with `randomness.seeded`, or give `repair` its draws.

    Raises
    ------
    ValueError
        For a side below 1 or a negative deviation.
    """

    def __init__(
        self,
        classifier: nn.Module,
        purifier: CompressionNetwork,
        *,
        patch: int = PATCH,
        soft_reconstruction: bool = False,
        test_noise_std: float = 0.0,
    ) -> None:
        super().__init__(classifier)
        if patch < 1:
            raise ValueError(f"patch is {patch}, but a patch has a side of at least 1 pixel; {PATCH} is published")
        if not test_noise_std >= 0:
            raise ValueError(f"test_noise_std is {test_noise_std}, but it must be at least 0; 0 draws nothing")
        self.purifier = purifier
        self.patch = patch
        self.soft_reconstruction = soft_reconstruction
        self.test_noise_std = test_noise_std
        if test_noise_std:
            self.transfer_knowledge = self.transfer_knowledge | {"expectation"}

    def purify(self, images: Images) -> Images:
        """Return images (B, C, H, W) rebuilt from their bits; noise, if any, is drawn anew."""
        return self.repair(images, self._fresh_draws(images))

    def differentiable_purify(self, images: Images) -> Images:
        """Return `purify`'s value; the threshold has the sigmoid's gradient."""
        return self.repair(images, self._fresh_draws(images), straight_through=True)

    def repair(self, images: Images, draws: Draws, *, straight_through: bool = False) -> Images:
        """Return what `purify` returns with noise from these draws; without noise nothing is drawn."""
        code = soft = self.soft_code(self.cut(images), draws, self.test_noise_std)
        if not self.soft_reconstruction:
            code = (soft > 0.5).to(soft.dtype)
            code = replace_value(code, soft) if straight_through else code
        return self.paste(self.purifier.reconstructor(code), images)

    def soft_code(self, patches: Tensor, draws: Draws, noise_std: float) -> Tensor:
        """Return the code (B P, N, h, w), in (0, 1), of patches (B, P, C, h, w).

        Noise of this standard deviation is added before the sigmoid.
        """
        scores = self.purifier.compressor(patches.flatten(0, 1))  # (B P, N, h, w)
        if noise_std:
            noise = draws.normal(patches.shape[1], *scores.shape[1:]).flatten(0, 1)
            scores = scores - noise_std * noise.to(scores)
        return scores.sigmoid()

    def bits(self, images: Images) -> Tensor:
        """Return the code (B P, N, h, w) of 0 and 1 without noise; P is 1 where images are compressed whole."""
        scores = self.purifier.compressor(self.cut(images).flatten(0, 1))
        return (scores.sigmoid() > 0.5).to(scores.dtype)

    def cut(self, images: Images) -> Tensor:
        """Return (B, P, C, h, w), what is compressed one by one: the images themselves, or their patches."""
        height, width = images.shape[-2:]
        if height == width and height <= self.patch:
            return images[:, None]
        return to_patches(images, self.patch)

    def paste(self, parts: Tensor, like: Images) -> Images:
        """Return images of `like`'s shape from parts (B P, C, h, w) in the order of `cut`."""
        height, width = like.shape[-2:]
        if height == width and height <= self.patch:
            return parts
        return from_patches(parts.reshape(len(like), -1, *parts.shape[1:]), height, width)

    def surrogates(self) -> Mapping[str, Classifier]:
        """Return ``oblivious``, ``identity`` and ``end-to-end``; with noise also ``expectation``.

        A defense that draws at every call must be attacked in expectation: ``expectation`` averages the logits of
        `EXPECTATION_SAMPLES` passes of ``end-to-end`` (`wrappers.Eot`).
        """
        white_box = Purified(self.differentiable_purify, self.classifier)
        published: dict[str, Classifier] = {
            "oblivious": self.classifier,
            "identity": Purified(StraightThrough(self.purify), self.classifier),
            "end-to-end": white_box,
        }
        if self.test_noise_std:
            published["expectation"] = Eot(white_box, EXPECTATION_SAMPLES)
        return published

    def _fresh_draws(self, images: Images) -> Draws:
        """Return draws for this call alone; without noise the global generator is left alone."""
        seed = int(torch.randint(2**62, ())) if self.test_noise_std else 0
        return ImageDraws.of(seed, "test noise", len(images), images.device)


@dataclass(frozen=True, kw_only=True)
class ComDefendPreset:
    """One reading of the paper: the text's, or the released scripts'."""

    summary: str
    widths: str = "paper"
    """Name in `networks.comdefend.WIDTHS`."""
    soft_grey: bool = False
    """Rebuild grey images from the sigmoid's values."""
    test_noise_std: float = 0.0


PRESETS: dict[str, ComDefendPreset] = {
    "paper": ComDefendPreset(summary="the text: bits, and no noise at test"),
    "released": ComDefendPreset(
        summary="the released scripts: noise of deviation 1 left on at test, grey images rebuilt from soft codes",
        soft_grey=True,
        test_noise_std=1.0,
    ),
    "small": ComDefendPreset(summary="the text with three narrow layers, for two processor cores", widths="small"),
}


def build_comdefend(*, channels: int, size: int, classifier: nn.Module, preset: str = "paper") -> ComDefend:
    """Return a freshly initialised ComDefend; draws from the global generator.

    Parameters
    ----------
    channels, size
        C, and H = W (at most 128) of the images it will be trained on; above 32 pixels in patches of 32.
    classifier
        See `Purification`.
    preset
        Name in `PRESETS`.

    Raises
    ------
    ValueError
        For an unknown preset, no channels, or a size out of range.
    """
    check_name(preset, PRESETS, "preset of ComDefend")
    check_side(size, "ComDefend")
    chosen = PRESETS[preset]
    return ComDefend(
        classifier,
        CompressionNetwork(comdefend_plan(channels, chosen.widths)),
        patch=min(size, PATCH),
        soft_reconstruction=chosen.soft_grey and channels == 1,
        test_noise_std=chosen.test_noise_std,
    )
