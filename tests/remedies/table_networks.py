"""Messages of networks, losses, threats and wrappers."""

from remedies.cases import Case

ROOMS = ("networks",)

CASES = (
    Case(
        "networks/layers.py",
        "give one number each per channel",
        "Normalize([0.5, 0.5, 0.5], [0.2, 0.2])",
        "Normalize([0.5, 0.5, 0.5], [0.2, 0.2, 0.2])",
    ),
)
