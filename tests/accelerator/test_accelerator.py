"""What is computed on an accelerator, in a process of its own for each file of cases.

torch looks for accelerators once, before the first gradient, so no other test may have come before.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
CASES = sorted(path.name for path in HERE.glob("cases_*.py"))


@pytest.mark.parametrize("file", CASES)
def test_on_an_accelerator(file) -> None:
    own = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(HERE / file)]
    done = subprocess.run(command, cwd=HERE.parents[1], env=own, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
