"""Out of memory, on whatever device, by whichever library: passes are halved, which is said and changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import memory_defense
from evaluation.flagging_toy import Shaded
from evaluation.helpers_evaluation import Front, some_images, some_labels
from memory_defense import Options, Record
from memory_defense.evaluation.flag import score_images
from memory_defense.evaluation.metrics import predict
from memory_defense.foreign import MemoryShortError, out_of_memory
from memory_defense.passes import fastest_micro_batch, granules_of, within_memory

CPU = RuntimeError(
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
    "allocate 603979776 bytes. Error code 12 (Cannot allocate memory)"
)

SHORT = {
    "cpu": CPU,
    "windows": RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 603979776 bytes."),
    "python": MemoryError(),
    "numpy": MemoryError("Unable to allocate 4.5 GiB for an array with shape (1, 2)"),
    "cuda": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
    "mps": RuntimeError("MPS backend out of memory (MPS allocated: 17.81 GB, other allocations: 320.00 MB)"),
    "onednn": RuntimeError("could not create a memory object"),
    "cublas": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
}


class Hungry(Front):
    """Has memory for so many images at a time; one pass with a graph needs twice as much."""

    def __init__(self, room: int, error: BaseException = CPU) -> None:
        super().__init__()
        self.room, self.error, self.largest = room, error, 0

    def forward(self, images: Tensor) -> Tensor:
        if len(images) * (1 + torch.is_grad_enabled()) > self.room:
            raise type(self.error)(*self.error.args)
        self.largest = max(self.largest, len(images))
        return super().forward(images)


class Told:
    def __init__(self) -> None:
        self.said: list[str] = []

    def begin(self, what: str, total: int) -> None: ...

    def advance(self, steps: int, text: str = "") -> None: ...

    def note(self, text: str) -> None:
        self.said.append(text)


def evaluated(model: nn.Module, out: Path | None = None, **options: object) -> Record:
    return memory_defense.evaluate(
        model,
        some_images()[:48],
        some_labels()[:48],
        epsilon=0.03,
        attacks="fgsm,pgd",
        out=out,
        options=Options(**options),  # pyright: ignore
    )


@pytest.mark.parametrize("error", SHORT.values(), ids=list(SHORT))
def test_every_message_that_says_so_is_known(error) -> None:
    assert out_of_memory(error)
    images = some_images()[:40]
    assert torch.equal(predict(Hungry(16, error), images), predict(Front(), images))
    assert fastest_micro_batch(Hungry(64, error), some_images()) == 32


@pytest.mark.parametrize(
    "error",
    [RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ValueError("out of memory"), KeyError("memory")],
)
def test_other_errors_are_not_taken_for_it(error) -> None:
    assert not out_of_memory(error)
    with pytest.raises(ValueError, match=type(error).__name__):
        predict(Hungry(16, error), some_images())


@pytest.mark.parametrize(("room", "sizes"), [(64, [24]), (36, [24, 12]), (32, [24, 12])])
def test_attacks_judge_measurement_and_audit_make_do(room, sizes) -> None:
    told, model = Told(), Hungry(room)
    plenty, little = evaluated(Front(), batch_size=48), evaluated(model, batch_size=48, progress=told)
    assert model.largest <= room
    assert little.worst_case == plenty.worst_case
    assert little.clean == plenty.clean
    for one, other in zip(little.audit, plenty.audit, strict=True):
        if "known to break" not in one.check:  # whether that test fits into its time is up to the clock
            assert (one.check, one.verdict) == (other.check, other.verdict)
    said = [f"fgsm: out of memory, going on with {size} images in a pass" for size in sizes]
    assert [line for line in told.said if line.startswith("fgsm")] == said
    assert little.cascades[0].stages[0].note == f"out of memory: {sizes[-1]} images in a pass at most"
    assert little.notes == (f"out of memory: {sizes[-1]} images in a pass at most, under fgsm",)
    assert plenty.notes == ()
    assert ("judging: out of memory, going on with 24 images in a pass" in told.said) == (room < 48)


@pytest.mark.parametrize("room", [8, 4, 2])
def test_with_room_for_fewer_than_a_granule_images_go_one_by_one_and_nothing_is_promised(room) -> None:
    model = Hungry(room)
    record = evaluated(model)
    assert model.largest <= room
    assert record.batch_invariance is not None
    assert record.batch_invariance.granule is None, "passes had fewer images than were compared"
    assert abs(record.worst_case[0].accuracy - evaluated(Front()).worst_case[0].accuracy) <= 1 / 48


def test_with_room_for_none_there_is_one_message_and_the_state_stays(tmp_path) -> None:
    with pytest.raises(MemoryShortError, match="not enough memory for one image in a pass; use a smaller network"):
        evaluated(Hungry(0))
    out = tmp_path / "r.json"
    with pytest.raises(MemoryShortError, match="fgsm runs out of memory even with one image in a pass"):
        evaluated(Hungry(1), out)  # there is room for answers, and for no gradient
    assert not out.exists()


def test_a_chunk_that_does_not_fit_is_cut(tmp_path) -> None:
    """Some surrogates bind a whole chunk at once, and some attacks hold much beside the passes."""

    class Binds(Front):
        def surrogates(self):
            network = self.network

            class Surrogate:
                def bind(self, clean: Tensor):
                    if len(clean) > 5:
                        raise MemoryError
                    return network

            return {"end-to-end": Surrogate()}

    assert evaluated(Binds()).worst_case == evaluated(Front()).worst_case


def test_scores_are_halved_too() -> None:
    class Short(Shaded):
        def scores(self, images):
            if len(images) > 16:
                raise CPU
            return super().scores(images)

    images = some_images()[:40]
    found, expected = score_images(Short(), images), score_images(Shaded(), images)
    assert found.keys() == expected.keys()
    for name in found:
        assert torch.equal(found[name], expected[name])


def test_what_filled_the_memory_is_let_go_before_the_next_try() -> None:
    alive: list[int] = []

    class Held:
        def __del__(self) -> None:
            alive.pop()

    def short(images: Tensor) -> Tensor:
        assert not alive, "the frames of the failed pass are still there"
        held = Held()
        alive.append(1)
        if len(images) > 2:
            raise RuntimeError(str(CPU))
        del held
        return images.flatten(1)

    images = some_images()[:8]
    assert torch.equal(within_memory(short, images), images.flatten(1))
    with granules_of(1):
        assert torch.equal(predict(short, images), images.flatten(1).argmax(1))
