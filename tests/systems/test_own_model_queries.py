"""A classifier that answers and has no gradient: refused where nothing could be tried, evaluated where it can."""

from __future__ import annotations

import sys
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

import memory_defense
from memory_defense.cli import main
from memory_defense.evaluation.metrics import predict
from memory_defense.evaluation.options import Options
from memory_defense.evaluation.record import Record
from memory_defense.tensorfiles import write_tensors

MODULE = """
import torch
from systems.test_own_model_queries import Asked

def build():
    return Asked()
"""


class Asked(nn.Module):
    """As a model in another runtime: its answers carry no gradient, and it says so."""

    def __init__(self) -> None:
        super().__init__()
        draws = torch.Generator().manual_seed(3)
        self.register_buffer("weight", torch.randn(64, 5, generator=draws))

    def forward(self, images: Tensor) -> Tensor:
        return (images.detach().flatten(1) - 0.5) @ self.weight

    def surrogates(self) -> Mapping[str, nn.Module]:
        return {"queries": self}


def problem() -> tuple[Asked, Tensor, Tensor]:
    images = torch.rand(24, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return Asked(), images, predict(Asked(), images)


@pytest.mark.parametrize("attacks", ["glimpse", "pgd", "fgsm,apgd-t", "rand"])
def test_nothing_is_called_robust_because_nothing_could_be_tried(tmp_path, attacks) -> None:
    with pytest.raises(ValueError, match=r"has no gradient.*square, nes, hop-skip-jump"):
        memory_defense.evaluate(*problem(), epsilon=0.1, attacks=attacks, out=tmp_path / "record.json")
    assert not list(tmp_path.iterdir())


def test_attacks_that_only_ask_are_run_and_their_images_may_be_replayed(tmp_path) -> None:
    record = memory_defense.evaluate(*problem(), epsilon=0.1, attacks="pgd,square", out=tmp_path / "record.json")
    assert record.worst_case[0].accuracy < 1
    (stages,) = (cascade.stages for cascade in record.cascades)
    assert {stage.attack: stage.fooled > 0 for stage in stages} == {"pgd": False, "square": True}
    start = Options(start_from=tmp_path / "record.images.safetensors")
    again = memory_defense.evaluate(*problem(), epsilon=0.1, attacks="pgd", options=start)
    assert again.worst_case[0].accuracy == record.worst_case[0].accuracy


def test_the_command_says_so(tmp_path, monkeypatch, capsys) -> None:
    _, images, labels = problem()
    write_tensors(tmp_path / "data.safetensors", {"images": images, "labels": labels})
    (tmp_path / "asked_only.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    asked = ["memdef", "evaluate", "asked_only:build", "--data", "data.safetensors", "--epsilon", "0.1"]
    monkeypatch.setattr(sys, "argv", [*asked, "--attacks", "pgd"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "give attacks that only ask: square, nes, hop-skip-jump" in capsys.readouterr().err
    assert not (tmp_path / "record.json").exists()
    monkeypatch.setattr(sys, "argv", [*asked, "--attacks", "square"])
    main()
    assert Record.read(tmp_path / "record.json").worst_case[0].accuracy < 1
