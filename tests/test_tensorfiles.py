"""Safetensors files whatever the length of their header; pickles by any name are refused."""

import pickle

import pytest
import torch

from memory_defense.tensorfiles import read_tensors, write_tensors


def test_no_header_length_makes_a_file_look_like_a_pickle(tmp_path) -> None:
    path = tmp_path / "w.safetensors"
    first = set()
    for length in range(1, 270, 3):
        write_tensors(path, {"a" * length: torch.arange(3.0)})
        first.add(path.read_bytes()[0])
        assert torch.equal(read_tensors(path)[0]["a" * length], torch.arange(3.0))
    assert 0x80 in first, "the case that once failed must be among them"


def test_a_pickle_by_another_name_is_refused(tmp_path) -> None:
    path = tmp_path / "w.safetensors"
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        path.write_bytes(pickle.dumps({"weight": [1.0, 2.0]}, protocol=protocol))
        with pytest.raises(ValueError, match="is a pickle"):
            read_tensors(path)
