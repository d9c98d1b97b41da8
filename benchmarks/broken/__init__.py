"""Published defenses whose break is published too, small enough to be trained here; see `broken_defenses.py`."""

from broken.activations import ACTIVATIONS
from broken.drawn import DRAWN
from broken.heads import HEADS
from broken.inputs import INPUTS
from broken.reacting import REACTING

BROKEN = {**INPUTS, **DRAWN, **ACTIVATIONS, **HEADS, **REACTING}
"""Every broken defense by name."""
