"""Adversarial images made once: pairs keep their clean image, rounding keeps the ball."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from memory_defense.attacks import CarliniWagner, Fgsm, RandFgsm
from memory_defense.data.images import ImageSet
from memory_defense.recipes.recipe import OfflinePairs
from memory_defense.threat import L2, Linf
from memory_defense.workflows import offline
from memory_defense.workflows.offline import Workshop, adversarial_pairs, attacked_bytes


def images(count: int = 6) -> ImageSet:
    generator = torch.Generator().manual_seed(3)
    pixels = torch.randint(0, 256, (count, 1, 4, 4), generator=generator, dtype=torch.uint8)
    return ImageSet(pixels, torch.arange(count) % 3, torch.arange(count) + 10)


def model() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 3))


def test_pairs_hold_every_attack_beside_the_clean_image() -> None:
    clean = images()
    pairs = OfflinePairs(
        attacks=((Fgsm(), Linf(0.2)), (RandFgsm(alpha=0.05), Linf(0.3))), images=4, with_clean=True
    )
    made = adversarial_pairs(clean, model(), pairs, seed=0)
    assert len(made) == 3 * 4
    assert made.clean is not None
    assert torch.equal(made.clean, clean.images[:4].repeat(3, 1, 1, 1))
    assert torch.equal(made.labels, clean.labels[:4].repeat(3))
    assert len(set(made.ids.tolist())) == 12
    change = (made.images.int() - made.clean.int()).abs().flatten(1).amax(1)
    assert int(change[:4].max()) <= 51  # 0.2 * 255
    assert int(change[4:8].max()) <= 76  # 0.3 * 255 = 76.5, cut to whole levels
    assert int(change[8:].max()) == 0
    assert int(change[:8].max()) > 40, "the attacks must have done something"


def test_the_same_pairs_come_again() -> None:
    pairs = OfflinePairs(attacks=((RandFgsm(), Linf(0.2)),))
    once, again = (adversarial_pairs(images(), model(), pairs, seed=5) for _ in range(2))
    assert torch.equal(once.images, again.images)
    assert not torch.equal(once.images, adversarial_pairs(images(), model(), pairs, seed=6).images)


def test_an_unbounded_attack_is_only_rounded() -> None:
    clean, victim = images(), model()
    labels = victim(clean.floats()).argmax(1)
    clean = ImageSet(clean.images, labels, clean.ids)
    attack = CarliniWagner(steps=100, search_steps=4, confidence=0.1)
    made = attacked_bytes(clean, victim, attack, L2(100.0), seed=0)
    assert bool((victim(made.float() / 255).argmax(1) != labels).all())


def test_float_images_are_refused_by_name() -> None:
    floats = ImageSet(images().floats(), images().labels, images().ids)
    with pytest.raises(ValueError, match="kept in 8 bits"):
        attacked_bytes(floats, model(), Fgsm(), Linf(0.1), seed=0)


class StopAfter:
    """Presses Ctrl-C after some parts."""

    def __init__(self, parts: int) -> None:
        self.left = parts

    def begin(self, what: str, total: int) -> None:
        pass

    def advance(self, steps: int, text: str = "") -> None:
        self.left -= steps
        if self.left <= 0:
            raise KeyboardInterrupt

    def note(self, text: str) -> None:
        pass


def test_a_set_that_was_stopped_is_continued_part_by_part(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(offline, "_PART", 2)
    pairs = OfflinePairs(attacks=((RandFgsm(), Linf(0.2)), (RandFgsm(), Linf(0.3))))
    expected = adversarial_pairs(images(), model(), pairs, seed=5)
    for parts in range(1, 6):
        with pytest.raises(KeyboardInterrupt):
            adversarial_pairs(images(), model(), pairs, 5, Workshop(tmp_path, StopAfter(parts)))
        assert len(list(tmp_path.glob("*.safetensors"))) == parts
    found = adversarial_pairs(images(), model(), pairs, 5, Workshop(tmp_path))
    assert torch.equal(found.images, expected.images)

    def unasked(*_: object) -> None:
        raise AssertionError("all parts are there")

    never, other = model(), model()
    never.register_forward_pre_hook(unasked)
    assert torch.equal(adversarial_pairs(images(), never, pairs, 5, Workshop(tmp_path)).images, expected.images)
    with pytest.raises(ValueError, match="is not part of this set"):
        adversarial_pairs(images(5), model(), pairs, 5, Workshop(tmp_path))
    with torch.no_grad():
        other[1].bias += 0.01  # type: ignore[operator]
    with pytest.raises(ValueError, match="is not part of this set"):
        adversarial_pairs(images(), other, pairs, 5, Workshop(tmp_path))
