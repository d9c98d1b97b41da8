"""The entries of the queue about purifiers, at toy size."""

import pytest

from memory_defense.defenses import pixeldefend
from paper.toy_queue import PURIFIERS, assert_it_runs


@pytest.mark.parametrize("name", PURIFIERS)
def test_an_entry_runs(tmp_path, name, monkeypatch) -> None:
    if name == "pixelcnn":  # a pass for each pixel takes minutes here, and has tests of its own

        def nearest_even(purifier, levels, radius):
            return (2 * (levels // 2)).clamp(levels - radius, levels + radius)

        monkeypatch.setattr(pixeldefend, "purified_levels", nearest_even)
    assert_it_runs(name, tmp_path)
