"""Broken images as changes: bit for bit the same again, small where attacks leave pixels at a ball's walls."""

from __future__ import annotations

import random
import zlib

import pytest
import torch
from torch import Tensor

from memory_defense.evaluation.coded import coded, coded_clean, decoded, decoded_clean
from memory_defense.evaluation.pixels import Pixels, check_pictures, chunk_for, parts
from memory_defense.threat import Linf

EPSILON = 8 / 255
LEVELS = torch.randint(0, 256, (4, 3, 20, 17), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
GREY = LEVELS.float().div(255)
FLOATS = torch.rand(4, 3, 20, 17, generator=torch.Generator().manual_seed(1))
NOISE = torch.rand(4, 3, 20, 17, generator=torch.Generator().manual_seed(2))


def signs() -> Tensor:
    return (NOISE > 0.5).float() * 2 - 1


ATTACKED = {
    "at the walls": lambda clean: Linf(EPSILON).project(clean + signs(), clean),
    "inside": lambda clean: (clean + EPSILON * (2 * NOISE - 1)).clamp(0, 1),
    "both": lambda clean: Linf(EPSILON).project(clean + 2 * EPSILON * (2 * NOISE - 1), clean),
    "one pixel": lambda clean: torch.where(NOISE.flatten(1).amax(1)[:, None, None, None] == NOISE, 0.3, clean),
    "not at all": lambda clean: clean.clone(),
    "elsewhere": lambda clean: FLOATS.flip(0),
    "negative zero": lambda clean: torch.where(NOISE < 0.3, -0.0, clean),
}


def bits(images: Tensor) -> Tensor:
    return images.contiguous().view(torch.int32)


@pytest.mark.parametrize("clean", [GREY, FLOATS], ids=["grey levels", "floats"])
@pytest.mark.parametrize("attack", ATTACKED.values(), ids=ATTACKED.keys())
@pytest.mark.parametrize("epsilon", [EPSILON, 0.1, 0.0, float("inf")])
def test_an_image_comes_back_bit_for_bit(clean: Tensor, attack, epsilon: float) -> None:
    images = attack(clean)
    for image, before, content in zip(images, clean, coded(images, clean, epsilon), strict=True):
        assert torch.equal(bits(decoded(content, before)), bits(image))
    for before in clean:
        content = coded_clean(before)
        again, end = decoded_clean(content + b"what follows", tuple(before.shape))
        assert torch.equal(bits(again), bits(before))
        assert end == len(content)


def test_at_the_walls_an_image_takes_two_bits_a_number_and_others_less_than_floats_deflated() -> None:
    for name, most in {"at the walls": 1 / 4 + 0.02, "not at all": 0.05, "inside": 3.4}.items():
        images = ATTACKED[name](GREY)
        for image, content in zip(images, coded(images, GREY, EPSILON), strict=True):
            assert len(content) < most * image.numel() + 40, name
    for before in GREY:
        assert len(coded_clean(before)) < before.numel() * 1.02 + 40, "noise that no deflating helps"
    plain = len(zlib.compress(ATTACKED["inside"](GREY)[0].numpy().tobytes()))
    assert len(coded(ATTACKED["inside"](GREY)[:1], GREY[:1], EPSILON)[0]) < plain


def test_another_clean_image_and_damage_are_refused() -> None:
    (content,) = coded(ATTACKED["both"](GREY)[:1], GREY[:1], EPSILON)
    with pytest.raises(ValueError, match="another clean image"):
        decoded(content, GREY[1])
    chance = random.Random(0)
    for _ in range(300):
        flipped = bytearray(content)
        flipped[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        try:
            found = decoded(bytes(flipped), GREY[0])
        except ValueError:
            continue
        assert torch.equal(bits(found), bits(ATTACKED["both"](GREY)[0])), (
            "epsilon's last bits, where no wall is hit"
        )
    for end in (0, 5, 15, len(content) - 1):
        with pytest.raises(ValueError, match="cut off"):
            decoded(content[:end], GREY[0])


def test_what_deflates_to_more_than_an_image_is_not_made() -> None:
    bomb = zlib.compress(bytes(1 << 26), 9)
    content = len(bomb).to_bytes(4, "little") + b"\x01" + bomb
    with pytest.raises(ValueError, match="damaged"):
        decoded_clean(content, (1, 4, 4))


def test_grey_levels_by_reference_are_the_floats_of_the_dataset() -> None:
    class Holder:
        images = LEVELS

    found = Pixels.of(Holder())
    assert found.source is LEVELS
    assert torch.equal(found[torch.tensor([2, 0])], GREY[[2, 0]])
    assert torch.equal(found[1:3], GREY[1:3])
    assert torch.equal(found[torch.tensor([True, False, False, True])], GREY[[0, 3]])
    assert found.shape == GREY.shape
    some = found.take(torch.tensor([3, 1])).take(torch.tensor([1]))
    assert torch.equal(some[:], GREY[[1]])
    assert torch.equal(torch.cat(list(parts(found, 3))), GREY)
    assert torch.equal(torch.cat(list(found.content())), LEVELS)
    check_pictures(found)
    with pytest.raises(ValueError, match="expected \\[0, 1\\]"):
        check_pictures(Pixels.of(GREY * 2))


@pytest.mark.parametrize(("size", "images"), [(32, 1024), (224, 192), (1024, 64)])
def test_an_attack_holds_fewer_images_where_they_are_large(size: int, images: int) -> None:
    pictures = Pixels.of(torch.zeros(1, 3, size, size, dtype=torch.uint8))
    assert chunk_for(pictures, 1024) == images
    assert chunk_for(pictures, 7) == 7
