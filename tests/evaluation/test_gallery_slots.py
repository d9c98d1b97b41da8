"""The gallery of a defense with many slots keeps the slots that its page has something to say about."""

from __future__ import annotations

import torch
from torch import Tensor

from memory_defense.evaluation.gallery import SHOWN_SLOTS, _rebuilt, _telling
from memory_defense.reporting.gallery import Gallery
from memory_defense.reporting.thumbnails import examples
from memory_defense.tensorfiles import write_tensors

SLOTS, COUNT = 100, 2


class Rebuilds:
    """Rebuilds an image as its slot's number over 1000; one image at a time, or memory would not do."""

    def __init__(self, slots: int) -> None:
        self.slots = slots

    def reconstruct_all(self, images: Tensor) -> Tensor:
        assert len(images) == 1
        numbers = torch.arange(self.slots)[None, :, None, None, None] / 1000
        return numbers.expand(1, self.slots, *images.shape[1:]).clone()


def known() -> dict[str, Tensor]:
    attention = torch.zeros(COUNT, SLOTS)
    attention[:, 77], attention[:, 5] = 0.5, 0.25
    return {
        "labels": torch.tensor([99, 3]),
        "predictions_clean": torch.tensor([99, -1]),
        "predictions_adversarial": torch.tensor([50, 4]),
        "slots_clean": torch.tensor([98, 3]),
        "slots_adversarial": torch.tensor([51, 4]),
        "attention_clean": attention,
        "attention_adversarial": attention,
    }


def test_of_many_slots_those_are_kept_that_say_something(tmp_path) -> None:
    assert {99, 50, 98, 51, 77, 5} <= set(_telling(known(), 0, SLOTS).tolist())
    images = torch.full((COUNT, 1, 8, 8), 0.5)
    found = _rebuilt(Rebuilds(SLOTS), images, known())
    assert found["reconstructions"].shape == (COUNT, SHOWN_SLOTS, 1, 8, 8)
    which = found["reconstructed"]
    assert torch.equal((found["reconstructions"][:, :, 0, 0, 0] * 1000).round().long(), which)
    assert (which.diff() > 0).all()
    header = {"attack": "a", "knowledge": "any", "norm": "linf", "epsilon": "0.1", "defense": "d"}
    names = ", ".join(f'"c{number}"' for number in range(SLOTS))
    path = tmp_path / "gallery.safetensors"
    tensors = {"images": images, "adversarial": images.clone(), **known(), **found}
    tensors["attention_adversarial"] = tensors["attention_clean"].clone()
    write_tensors(path, tensors, header | {"classes": f"[{names}]"})
    views = examples(Gallery.read(path), COUNT)
    assert [one.label for one in views[0].slots] == [f"c{number}" for number in which[0].tolist()]
    shown = {one.label: one for one in views[0].slots}
    assert shown["c98"].chosen_clean
    assert shown["c51"].chosen_adversarial
    assert shown["c77"].share_clean is not None
    assert abs(shown["c77"].share_clean - 2 / 3) < 1e-6


def test_few_slots_are_all_kept_as_before() -> None:
    found = _rebuilt(Rebuilds(10), torch.full((COUNT, 1, 8, 8), 0.5), {})
    assert found.keys() == {"reconstructions"}
    assert found["reconstructions"].shape == (COUNT, 10, 1, 8, 8)
