"""What is promised holds under the kernels of other processors, as far as one processor can be made to use them.

The libraries below torch choose kernels by what a processor has, and can be told to choose as for another. What no
setting here can show is made by hand (`rounding`). Each setting runs a few tests of its own pytest.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import rounding

SETTINGS = {
    "MKL_CBWR": ("COMPATIBLE", "AVX2"),
    "MKL_ENABLE_INSTRUCTIONS": ("AVX2",),
    "ONEDNN_MAX_CPU_ISA": ("AVX2",),
    "ATEN_CPU_CAPABILITY": ("default",),
    rounding.VARIABLE: ("small-batches", "positions"),
}

TESTS = (
    "test_passes.py",
    "evaluation/test_company.py::test_the_granule_is_what_the_layers_need",
    "evaluation/test_invariance.py::test_another_order_and_batch_and_a_stop_in_short",
    "evaluation/test_invariance.py::test_two_processes_equal_one",
    "networks/test_pixelcnn_greedy.py::test_in_float64_an_image_is_purified_alike_in_any_company",
    "networks/test_pixelcnn_greedy.py::test_in_float32_company_decides_near_ties_only",
)


@pytest.mark.parametrize("setting", [f"{name}={one}" for name, values in SETTINGS.items() for one in values])
def test_the_promises_hold_under(setting: str) -> None:
    home = Path(__file__).parent
    name, value = setting.split("=")
    kept = {key: one for key, one in os.environ.items() if not key.startswith("PYTEST_") and key not in SETTINGS}
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
        env={**kept, name: value, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "skipped" not in done.stdout
