"""Wrappers that make any attack adaptive, and the context in which a victim is attacked.

Every wrapper is a classifier again, so an attack never knows that it differentiates one. All of them pass
`contracts.RowBound` on to what they wrap.
"""

from memory_defense.wrappers.counting import CountingPasses, Passes
from memory_defense.wrappers.gradients import (
    Backward,
    Bpda,
    StraightThrough,
    TensorMap,
    gradient_at,
    replace_value,
)
from memory_defense.wrappers.models import (
    evaluating,
    frozen,
    modules_known,
    modules_of,
    restored,
    rows_of,
    tensors_of,
)
from memory_defense.wrappers.modes import (
    OwnPrecision,
    UnderDefaults,
    exact_float32,
    ordinary_modes,
    outside_inference,
    places_of,
    precision_of,
    torch_defaults,
)
from memory_defense.wrappers.parallel import apart
from memory_defense.wrappers.randomised import Eot, Resubmission
from memory_defense.wrappers.reached import Reaching, modules_seen

__all__ = [
    "Backward",
    "Bpda",
    "CountingPasses",
    "Eot",
    "OwnPrecision",
    "Passes",
    "Reaching",
    "Resubmission",
    "StraightThrough",
    "TensorMap",
    "UnderDefaults",
    "apart",
    "evaluating",
    "exact_float32",
    "frozen",
    "gradient_at",
    "modules_known",
    "modules_of",
    "modules_seen",
    "ordinary_modes",
    "outside_inference",
    "places_of",
    "precision_of",
    "replace_value",
    "restored",
    "rows_of",
    "tensors_of",
    "torch_defaults",
]
