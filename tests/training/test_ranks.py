"""Two gloo processes against one: the same weights up to the order of sums, the same choices, the same state.

Tolerance. Ranks add the same float32 numbers in another order, so one step differs by some units in the last place
(6e-8, relative); 24 steps of SGD with momentum and batch normalisation multiply that by up to a few hundred. AdamW
divides by the size of the gradient, which for a weight whose gradient is nearly 0 turns rounding into a step.
"""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from memory_defense.ranks import Ranks, current
from memory_defense.tensorfiles import read_tensors
from memory_defense.training.adversarial import WarmStart
from memory_defense.training.synchronised import _joint
from memory_defense.training.team import Team
from training.rank_cases import CASES, weights

TOLERANCE = {"rtol": 2e-5, "atol": 2e-6}
ADAMW = {"rtol": 2e-4, "atol": 2e-5}


@dataclass
class Done:
    """What two ranks left."""

    folder: Path
    said: list[dict]
    tensors: list[dict[str, Tensor]]

    def weights(self, case: str, rank: int = 0) -> dict[str, Tensor]:
        prefix = f"{case}/"
        return {
            name.removeprefix(prefix): tensor
            for name, tensor in self.tensors[rank].items()
            if name.startswith(prefix)
        }


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> Done:
    folder = tmp_path_factory.mktemp("ranks")
    script = str(Path(__file__).with_name("rank_cases.py"))
    processes = [
        subprocess.Popen([sys.executable, script, str(folder), str(rank), "2"], stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    for process in processes:
        _, error = process.communicate(timeout=120)
        assert process.returncode == 0, error
    said = [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(2)]
    return Done(folder, said, [read_tensors(folder / f"rank{rank}.safetensors")[0] for rank in range(2)])


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor], **tolerance: float) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, msg=lambda text, name=name: f"{name}: {text}", **tolerance)


@pytest.mark.parametrize("name", CASES)
def test_two_ranks_reach_the_weights_of_one_process(two, name) -> None:
    model, result = CASES[name].run()
    assert_close(two.weights(name), weights(model), **(ADAMW if "adamw" in name else TOLERANCE))
    said = two.said[0][name]
    assert said["best"] == result.best_epoch
    assert said["scores"] == pytest.approx([log.score for log in result.history], abs=1e-7)
    assert said["losses"] == pytest.approx(result.history[-1].losses, rel=1e-4, abs=1e-5)
    assert len(set(said["scores"])) > 1, "the choice of the best epoch means something"


@pytest.mark.parametrize("name", CASES)
def test_ranks_hold_the_same_bits(two, name) -> None:
    assert two.said[0][name] == two.said[1][name]
    for key, tensor in two.weights(name).items():
        assert torch.equal(tensor, two.weights(name, 1)[key]), key


@pytest.mark.parametrize("name", ["killed", "stopped"])
def test_a_resumed_pair_ends_bit_identical(two, name) -> None:
    for rank in range(2):
        assert two.said[rank][f"{name}-raised"]
        assert two.said[rank][name] == two.said[0]["norm-warm-start"]
        for key, tensor in two.weights("norm-warm-start").items():
            assert torch.equal(two.weights(name, rank)[key], tensor), key


def test_ranks_stop_together_and_the_state_holds_every_image(two) -> None:
    state = two.folder / "stopped.copy"
    tensors, header = read_tensors(state)
    assert json.loads(header["run"])["step"] == 10, "one step after rank 1 was told"
    remembered = tensors["objective/perturbations"].flatten(1).any(1).nonzero().flatten()
    assert len(remembered) > 80, "both ranks' images are in it"


def test_one_process_goes_on_from_the_state_of_two(two) -> None:
    warm = CASES["norm-warm-start"]
    model, result = warm.run(state=two.folder / "stopped.copy")
    assert_close(two.weights("norm-warm-start"), weights(model), **TOLERANCE)
    assert result.best_epoch == two.said[0]["norm-warm-start"]["best"]


def test_what_ranks_cannot_do_is_refused_on_every_rank(two) -> None:
    for said in two.said:
        assert "batch_size is 1, but 2 processes share each batch" in said["refused"]
        assert "is a web page" in said["damaged"]


def test_without_processes_there_is_one_rank() -> None:
    ranks = current()
    assert ranks == Ranks(0, 1)
    assert ranks.rows(3).tolist() == [0, 1, 2]
    assert ranks.total(2, 5) == [2, 5]
    tensor = torch.tensor([1.0, 2.0])
    ranks.add_(tensor)
    ranks.copy_([tensor])
    assert tensor.tolist() == [1.0, 2.0]
    assert ranks.lead(lambda: ({"a": tensor}, {"b": 1})) == ({"a": tensor}, {"b": 1})


@pytest.mark.parametrize(("batch", "world"), [(15, 2), (16, 3), (8, 8)])
def test_every_row_belongs_to_one_rank(batch, world) -> None:
    teams = [Team(Ranks(rank, world), batch, WarmStart()) for rank in range(world)]
    rows = torch.randperm(batch)
    assert torch.equal(torch.cat([team.own(rows) for team in teams]), rows)
    sizes = [team.stop - team.start for team in teams]
    assert max(sizes) - min(sizes) <= 1
    assert sum(team.weight for team in teams) == pytest.approx(1)


class Forgetful:
    """An objective with a state that ranks cannot share."""

    def __call__(self, model, batch):
        raise NotImplementedError

    def state(self):
        return {}

    def restore(self, state):
        pass


def test_a_memory_that_ranks_cannot_share_is_refused() -> None:
    Team(Ranks(0, 1), 4, Forgetful())
    with pytest.raises(ValueError, match=r"Forgetful remembers.*recall\(ids\)"):
        Team(Ranks(0, 2), 4, Forgetful())


def test_a_normalisation_of_its_own_is_refused() -> None:
    class Ghost(nn.BatchNorm2d):
        def forward(self, input):
            return input

    with pytest.raises(ValueError, match="Ghost normalises batches in its own way"):
        _joint(Ghost)
    assert _joint(nn.SyncBatchNorm) is None
    assert _joint(nn.Conv2d) is None
