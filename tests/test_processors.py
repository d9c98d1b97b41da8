"""The promises under other settings of oneDNN and torch, and with layers that round as other processors do."""

import pytest

import processors
import rounding


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("ONEDNN_MAX_CPU_ISA", "AVX2"),
        ("ATEN_CPU_CAPABILITY", "default"),
        (rounding.VARIABLE, "small-batches"),
        (rounding.VARIABLE, "positions"),
    ],
)
def test_the_promises_hold_under(variable: str, value: str) -> None:
    processors.check_promises(variable, value)
