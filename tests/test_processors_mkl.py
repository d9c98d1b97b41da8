"""The promises under other settings of the library that multiplies matrices; beside the others, for two workers."""

import pytest

import processors


@pytest.mark.parametrize(
    ("variable", "value"),
    [("MKL_CBWR", "COMPATIBLE"), ("MKL_CBWR", "AVX2"), ("MKL_ENABLE_INSTRUCTIONS", "AVX2")],
)
def test_the_promises_hold_under(variable: str, value: str) -> None:
    processors.check_promises(variable, value)
