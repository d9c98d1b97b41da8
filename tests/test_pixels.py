"""Images that are kept as grey levels are, to whoever asks, the float tensor that they stand for."""

import math
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

import memory_defense
from memory_defense import Options
from memory_defense.checks import check_images
from memory_defense.data.images import image_set
from memory_defense.pixels import FLOAT_BYTES, Pixels, chunk_of

LEVELS = torch.randint(0, 256, (10, 3, 4, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
FLOATS = LEVELS.float() / 255
ROWS = [3, -1, slice(2, 7), slice(None), [4, 1, 4], torch.tensor([9, 0]), torch.arange(10) % 2 == 0]
DEEPER = [(slice(1, 3), 0), (slice(None), slice(0, 1)), (2, 1), (torch.tensor([5, 6]), slice(None), 0), ..., None]


@pytest.mark.parametrize("index", [*ROWS, *DEEPER], ids=str)
@pytest.mark.parametrize("kept", [LEVELS, FLOATS], ids=["levels", "floats"])
def test_an_index_gives_what_it_gives_of_the_floats(kept: Tensor, index: Any) -> None:
    found = Pixels(kept)[index]
    assert type(found) is Tensor
    assert torch.equal(found, FLOATS[index])
    found.zero_()  # a tensor of its own: nothing that is kept changes
    assert torch.equal(Pixels(kept)[:], FLOATS)


def test_what_describes_them_makes_no_floats(monkeypatch: pytest.MonkeyPatch) -> None:
    images = Pixels(LEVELS)
    monkeypatch.setattr(Pixels, "_floats", None)
    assert (images.shape, images.dtype, images.dim(), len(images)) == (FLOATS.shape, torch.float32, 4, 10)
    assert (images.device.type, images.numel(), images.is_floating_point()) == ("cpu", FLOATS.numel(), True)
    assert "Pixels((10, 3, 4, 5), kept as torch.uint8" in repr(images)
    for same in (images.clone(), images.detach(), images.to("cpu"), images.cpu(), images.contiguous()):
        assert type(same) is Pixels
    assert type(torch.index_select(images, 0, torch.tensor([1]))) is Pixels
    assert len(torch.split(images, 4)) == 3


def test_operations_give_what_they_give_of_the_floats() -> None:
    images = Pixels(LEVELS)
    assert torch.equal(images, FLOATS)
    assert torch.equal(images + 1, FLOATS + 1)
    assert torch.equal(images.double(), FLOATS.double())
    assert torch.equal(images.to(torch.float64), FLOATS.double())
    assert torch.equal(torch.cat([images, images]), torch.cat([FLOATS, FLOATS]))
    assert torch.equal(torch.stack(list(images)), FLOATS)
    assert [torch.equal(*pair) for pair in zip(torch.split(images, 4), torch.split(FLOATS, 4), strict=True)] == [
        True
    ] * 3
    rows = torch.tensor([7, 2, 2])
    assert torch.equal(images.index_select(0, rows)[:], FLOATS[rows])
    assert torch.equal(images.index_select(0, rows).index_select(0, torch.tensor([1]))[:], FLOATS[[2]])


def test_what_is_written_stays_with_the_clone_it_was_written_to() -> None:
    images = Pixels(LEVELS)
    before, odd = images.clone(), torch.arange(10) % 2 == 1
    written = before.clone()
    written[odd] = torch.full((5, 3, 4, 5), 0.1234567)
    written[torch.tensor([0])] = FLOATS[9:]
    expected = FLOATS.clone()
    expected[odd], expected[0] = 0.1234567, FLOATS[9]
    assert torch.equal(written[:], expected)
    assert torch.equal(written.index_select(0, torch.tensor([3, 3, 0, 4]))[:], expected[[3, 3, 0, 4]])
    assert torch.equal(before[:], FLOATS)


def test_a_change_in_place_is_refused() -> None:
    with pytest.raises(ValueError, match="add_ would change images"):
        Pixels(LEVELS).add_(1)
    with pytest.raises(ValueError, match=r"pixels are torch\.float64, expected torch\.uint8"):
        Pixels(FLOATS.double())


def test_values_are_checked_part_by_part() -> None:
    check_images(Pixels(LEVELS))
    floats = torch.rand(200, 1, 4, 4)
    for value, message in ((math.nan, "1 pixels are NaN"), (1.2, r"images span \[.*, 1\.2\]")):
        floats[150, 0, 0, 0] = value
        with pytest.raises(ValueError, match=message):
            check_images(Pixels(floats))


@pytest.mark.parametrize(("shape", "most", "expected"), [((1, 28, 28), 1024, 1024), ((3, 224, 224), 1024, 104)])
def test_a_chunk_of_large_images_is_smaller(shape: tuple[int, ...], most: int, expected: int) -> None:
    images = torch.zeros(1, dtype=torch.uint8).expand(5000, *shape)
    assert chunk_of(Pixels(images), most) == expected
    assert expected == most or 4 * expected * math.prod(shape) <= FLOAT_BYTES
    assert chunk_of(Pixels(torch.zeros(1, dtype=torch.uint8).expand(9, 3, 9999, 9999)), most) == 8


def test_an_evaluation_finds_what_it_finds_of_the_floats() -> None:
    labels = torch.arange(24) % 4
    images = image_set(torch.randint(0, 256, (24, 1, 6, 9), dtype=torch.uint8), labels)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(54, 4)).eval()
    labels = model(images.floats()).argmax(1)
    options = Options(batch_size=8, device="cpu")
    kept, floats = (
        memory_defense.evaluate(model, given, labels, epsilon=[0.02, 0.1], attacks="pgd", options=options)
        for given in (images.pixels(), images.floats())
    )
    assert kept.worst_case[0].accuracy not in (None, 0, 1)
    timeless = {"provenance", "seconds"}
    assert _without(kept.model_dump(), timeless) == _without(floats.model_dump(), timeless)


def _without(found: Any, names: set[str]) -> Any:
    if isinstance(found, dict):
        held = cast("dict[str, Any]", found)
        return {name: _without(value, names) for name, value in held.items() if name not in names}
    held = cast("list[Any]", found)
    return [_without(one, names) for one in held] if isinstance(found, (list, tuple)) else found
