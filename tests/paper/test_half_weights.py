"""Weights in half precision: what comes back is the rounding of what went in, whatever the files' size."""

import hashlib
import json

import pytest
import torch
from torch import nn

from memory_defense.paper.half_weights import LIMIT, halved, read_half, restore_half, round_to_half, write_half
from memory_defense.tensorfiles import read_tensors, write_tensors


class Odd(nn.Module):
    """Every kind of tensor: large, scalar, empty, integer, out of range, not a number."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.layers = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.Linear(40, 90))
        for parameter in self.parameters():
            nn.init.normal_(parameter, generator=generator)
        self.register_buffer("large", torch.tensor([1e5, -3e7, 0.1]))
        self.register_buffer("missing", torch.tensor([float("nan"), float("inf"), 0.3]))
        self.register_buffer("nothing", torch.zeros(0, 4))
        self.register_buffer("scalar", torch.tensor(0.7))
        self.register_buffer("precise", torch.tensor([1 / 3], dtype=torch.float64))
        self.register_buffer("counts", torch.arange(5))


def expected(module: nn.Module) -> dict[str, torch.Tensor]:
    """Return what should come back, by the definition."""
    whole = dict(module.state_dict())
    for name, tensor in whole.items():
        if tensor.is_floating_point() and name != "large":
            whole[name] = tensor.half().to(tensor.dtype)
    return whole


def assert_same(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    assert list(found) == list(wanted)
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype, name
        assert found[name].shape == tensor.shape, name
        assert torch.equal(found[name].nan_to_num(nan=7.5), tensor.nan_to_num(nan=7.5)), name


@pytest.mark.parametrize("limit", [4096, 5000, 9000, LIMIT])
def test_round_trip(tmp_path, limit) -> None:
    module = Odd()
    manifest = write_half(module, tmp_path, limit)
    files = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    assert files == sorted(part.name for part in manifest.parts)
    for part in manifest.parts:
        content = (tmp_path / part.name).read_bytes()
        assert part.bytes == len(content) <= limit
        assert part.sha256 == hashlib.sha256(content).hexdigest()
    assert_same(read_half(tmp_path), expected(module))
    assert (len(files) > 1) == (limit < LIMIT)
    halves = sum(part.bytes for part in manifest.parts)
    assert halves < 2.6 * sum(p.numel() for p in module.parameters()) + 8000


def test_what_is_rounded_first_comes_back_bit_for_bit(tmp_path) -> None:
    module, other = Odd(), Odd(seed=1)
    round_to_half(module)
    write_half(module, tmp_path, 4096)
    restore_half(tmp_path, other)
    assert_same(dict(other.state_dict()), dict(module.state_dict()))
    assert all(parameter.dtype == torch.float32 for parameter in other.parameters())


def test_rounding_is_half_a_unit_in_the_last_place() -> None:
    values = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    relative = (halved(values).float() - values).abs() / values.abs()
    assert relative.max() <= 2**-11
    assert halved(torch.tensor([70_000.0])).dtype == torch.float32
    assert halved(torch.arange(3)).dtype == torch.int64


def test_fewer_parts_than_before_leave_no_old_ones(tmp_path) -> None:
    assert len(write_half(Odd(), tmp_path, 4096).parts) > 1
    write_half(Odd(), tmp_path)
    assert [path.name for path in tmp_path.glob("*.safetensors")] == ["weights-1-of-1.safetensors"]


def test_the_same_module_gives_the_same_bytes(tmp_path) -> None:
    assert write_half(Odd(), tmp_path / "a", 5000) == write_half(Odd(), tmp_path / "b", 5000)


def test_damage_is_refused_by_name(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"no weights\.json"):
        read_half(tmp_path)
    manifest = write_half(Odd(), tmp_path, 5000)
    path = tmp_path / manifest.parts[1].name
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ValueError, match=rf"{path.name} is not what was written"):
        read_half(tmp_path)
    path.unlink()
    with pytest.raises(ValueError, match=rf"{path.name} is missing"):
        read_half(tmp_path)
    path.write_bytes(whole)
    said = json.loads((tmp_path / "weights.json").read_text())
    assert len(said.pop("checksum")) == 64
    for change, message in (
        ({"parts": [said["parts"][0] | {"name": "../outside.safetensors"}]}, "damaged"),
        ({"format": "another"}, "damaged"),
        ({"parts": said["parts"][:1]}, "does not fit"),
        ({"tensors": {"scalar": said["tensors"]["scalar"] | {"dtype": "nn"}}}, "does not fit"),
        ({"tensors": {"scalar": said["tensors"]["scalar"] | {"shape": [2]}}}, "does not fit"),
    ):
        (tmp_path / "weights.json").write_text(json.dumps(said | change))
        with pytest.raises(ValueError, match=message):
            read_half(tmp_path)


def test_another_module_is_refused_and_left_alone(tmp_path) -> None:
    write_half(nn.Linear(3, 2), tmp_path)
    for other in (nn.Linear(3, 4), nn.Linear(3, 2, bias=False), nn.BatchNorm1d(3)):
        before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
        with pytest.raises(ValueError):
            restore_half(tmp_path, other)
        assert all(torch.equal(tensor, before[name]) for name, tensor in other.state_dict().items())


def test_files_are_plain_safetensors(tmp_path) -> None:
    write_half(nn.Linear(3, 2), tmp_path)
    tensors, _ = read_tensors(tmp_path / "weights-1-of-1.safetensors")
    assert {name: tensor.dtype for name, tensor in tensors.items()} == {
        "weight/0": torch.float16,
        "bias/0": torch.float16,
    }
    write_tensors(tmp_path / "weights-1-of-1.safetensors", {"weight/0": torch.zeros(6)})
    with pytest.raises(ValueError, match="SHA-256"):
        read_half(tmp_path)


def test_a_limit_that_holds_nothing_is_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match="at most 100 bytes"):
        write_half(nn.Linear(3, 2), tmp_path, 100)
