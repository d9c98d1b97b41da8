"""Wrappers that make any attack adaptive, and the context in which a victim is attacked.

Every wrapper is a classifier again, so an attack never knows that it differentiates one. All of them pass
`contracts.RowBound` on to what they wrap.
"""

from memory_defense.wrappers.counting import CountingPasses, Passes
from memory_defense.wrappers.gradients import Bpda, StraightThrough, TensorMap, replace_value
from memory_defense.wrappers.models import frozen, modules_of, restored, rows_of, tensors_of
from memory_defense.wrappers.randomised import Eot, Resubmission

__all__ = [
    "Bpda",
    "CountingPasses",
    "Eot",
    "Passes",
    "Resubmission",
    "StraightThrough",
    "TensorMap",
    "frozen",
    "modules_of",
    "replace_value",
    "restored",
    "rows_of",
    "tensors_of",
]
