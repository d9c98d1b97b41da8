"""What is promised holds under the kernels of other processors, as far as one processor can be made to use them.

The libraries below torch choose kernels by what a processor has, and can be told to choose as for another. What no
setting can show here is made by hand (`rounding`). Each setting runs a few tests in a pytest of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import rounding

VARIABLES = ("MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS", "ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY", rounding.VARIABLE)

TESTS = (
    "test_passes.py",
    "evaluation/test_batch_invariance.py::test_the_granule_is_what_the_layers_need",
    "evaluation/test_invariance.py::test_another_order_and_batch_and_a_stop_in_short",
    "evaluation/test_invariance.py::test_two_processes_equal_one",
    "networks/test_pixelcnn_greedy.py::test_in_float64_an_image_is_purified_alike_in_any_batch",
    "networks/test_pixelcnn_greedy.py::test_in_float32_the_batch_decides_near_ties_only",
)


def check_promises(variable: str, value: str) -> None:
    """Run the tests with this variable of the environment alone among `VARIABLES`."""
    home = Path(__file__).parent
    dropped = {*VARIABLES, *(name for name in os.environ if name.startswith("PYTEST_"))}
    kept = {name: one for name, one in os.environ.items() if name not in dropped}
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-p",
            "no:xdist",
            *(home / t for t in TESTS),
        ],
        cwd=home.parent,
        env={**kept, variable: value, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "passed" in done.stdout
    assert "skipped" not in done.stdout
