"""The entries of the queue about selectors and Memory Defense, at toy size."""

import pytest

from memory_defense.paper.queue import QUEUE
from paper.toy_queue import PURIFIERS, assert_it_runs


@pytest.mark.parametrize("name", [name for name in QUEUE if name not in PURIFIERS])
def test_an_entry_runs(tmp_path, name) -> None:
    assert_it_runs(name, tmp_path)
