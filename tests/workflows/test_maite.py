"""MAITE's protocols, by its own programs where it is installed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import memory_defense
from memory_defense import Options
from memory_defense.workflows.maite import MaiteDataset, MaiteModel, evaluate_maite

CLASSES = ("a", "b", "c", "d")


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 4))


@pytest.fixture
def data(net: nn.Module) -> MaiteDataset:
    images = torch.rand(20, 1, 4, 4)
    return MaiteDataset(images, net(images).argmax(1), id="made up", classes=CLASSES)


class Theirs:
    """A model as others write it: it asks for what numpy reads."""

    def __init__(self, net: nn.Module) -> None:
        self._net, self.metadata = net, {"id": "theirs"}

    def __call__(self, batch: Sequence[Any]) -> list[np.ndarray]:
        with torch.no_grad():
            return list(self._net(torch.from_numpy(np.stack([np.asarray(one) for one in batch]))).numpy())


class Differentiable(Theirs):
    def __call__(self, batch: Sequence[Any]) -> list[torch.Tensor]:  # pyright: ignore
        return list(self._net(torch.stack(list(batch))))


def test_their_programs_take_ours(net: nn.Module, data: MaiteDataset) -> None:
    protocols = pytest.importorskip("maite.protocols.image_classification")
    tasks = pytest.importorskip("maite.tasks")
    model = MaiteModel(net, id="net", classes=CLASSES)
    assert isinstance(model, protocols.Model)
    assert isinstance(data, protocols.Dataset)
    answers, _ = tasks.predict(model=model, dataset=data, batch_size=6)
    found = torch.stack([one for batch in answers for one in batch]).argmax(1)
    assert found.tolist() == [int(data[place][1].argmax()) for place in range(len(data))]


def test_a_differentiable_model_of_theirs_is_attacked_as_ours_is(net: nn.Module, data: MaiteDataset) -> None:
    record = evaluate_maite(Differentiable(net), data, epsilon=0.05, attacks="fgsm", differentiable=True)
    images = torch.stack([data[place][0] for place in range(len(data))])
    own = memory_defense.evaluate(net, images, net(images).argmax(1), epsilon=0.05, attacks="fgsm")
    assert record.worst_case == own.worst_case
    assert record.worst_case[0].accuracy != 1
    assert (record.defense, record.dataset) == ("theirs", "made up")


def test_one_that_only_answers_is_asked(net: nn.Module, data: MaiteDataset) -> None:
    record = evaluate_maite(
        Theirs(net), data, epsilon=0.05, attacks="square,fgsm", options=Options(defense="by name")
    )
    assert record.defense == "by name"
    stages = {stage.attack: stage for stage in record.cascades[0].stages}
    assert stages["square"].tried == 20
    assert stages["fgsm"].tried == 0
    assert "no gradient" in stages["fgsm"].note


def test_targets_and_positions(data: MaiteDataset) -> None:
    image, target, about = data[3]
    assert image.shape == (1, 4, 4)
    assert target.sum() == target.max() == 1
    assert about == {"id": 3}
    assert data[-1][2] == {"id": 19}
    with pytest.raises(IndexError):
        data[20]
    assert len(list(iter(data))) == 20, "a loop over it ends"
    assert data.metadata["index2label"][2] == "c"


def test_what_is_no_dataset_is_refused(net: nn.Module) -> None:
    class Odd:
        def __init__(self, items: list[Any]) -> None:
            self._items, self.metadata = items, {"id": "odd"}

        def __len__(self) -> int:
            return len(self._items)

        def __getitem__(self, index: int) -> Any:
            return self._items[index]

    with pytest.raises(ValueError, match="target of item 0 is"):
        evaluate_maite(Theirs(net), Odd([(np.zeros((1, 4, 4)), 3, {"id": 0})]), epsilon=0.1)
    with pytest.raises(ValueError, match="no items"):
        evaluate_maite(Theirs(net), Odd([]), epsilon=0.1)
