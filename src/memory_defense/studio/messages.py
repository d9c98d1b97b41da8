"""Messages between page and server, checked in both directions."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Name = Annotated[str, Field(min_length=1, max_length=200)]

MOST_PIXEL_TEXT = 1 << 22
"""Characters of base64 that an image's grey levels may take: 3 x 1024 x 1024, the largest images that are read."""


class Message(BaseModel):
    """Unknown fields are refused, as are NaN and infinity."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ImageChoice(Message):
    """One image: a test image by its position, or grey levels."""

    test: Annotated[int, Field(ge=0, lt=1 << 31)] | None = None
    pixels: Annotated[str, Field(max_length=MOST_PIXEL_TEXT)] | None = None
    """Base64 of C x H x W bytes."""


class AttackChoice(Message):
    """Choice of the attack and its options."""

    attack: Name
    options: Annotated[dict[Name, int], Field(max_length=8)] = {}
    knowledge: Name
    norm: Literal["linf", "l2"] = "linf"
    epsilon: Annotated[float, Field(ge=0, le=10)]
    """Radius in pixel units; `play` bounds it for each norm."""
    seed: Annotated[int, Field(ge=0, lt=1 << 31)] = 0


class PlayRequest(Message):
    """Attack one image of one run."""

    run: Name
    image: ImageChoice
    label: Annotated[int, Field(ge=0)] | None = None
    """The class to leave; None is the dataset's for a test image, else what the defense answers."""
    attack: AttackChoice


class CompareRequest(Message):
    """Attack one image of two runs, each on its own, and hand each the other's adversarial image."""

    runs: Annotated[list[Name], Field(min_length=2, max_length=2)]
    image: ImageChoice
    label: Annotated[int, Field(ge=0)] | None = None
    attack: AttackChoice


class Slot(Message):
    """One slot's reconstruction of an image."""

    picture: str
    error: float
    """Mean squared difference to the image, pixel units."""


class Proof(Message):
    """What a defense proves of its answer to one image."""

    norm: Literal["linf", "l2"]
    radius: Annotated[float, Field(ge=0)]
    """No image within it, in pixel units, gets another answer; 0 where nothing is proven."""
    accepted: bool | None
    """Whether the gate for the attack's epsilon accepts the image; None where the attack's norm is another."""


class Look(Message):
    """Everything that a defense computes for one image."""

    picture: str
    answer: int
    probabilities: list[float]
    """(K,) softmax of the defense's logits."""
    selector: list[float] | None
    """(K,) softmax of the logits of what chooses the slot; None where the defense publishes no selector."""
    slot: int | None
    attention: list[float] | None
    """(M,) the weights the memory was read with."""
    slots: list[Slot] | None
    """(K,) what each slot makes of the image, or the best item of each class where there is no slot to choose."""
    flagged: bool | None
    """None where the defense has no flag, or no threshold for it."""
    flag_score: str | None
    """The score that the flag looks at; None where the defense has no flag."""
    proof: Proof | None
    """None where the defense proves nothing."""


class Played(Message):
    """One attack on one image."""

    run: str
    knowledge: str
    label: int
    label_source: Literal["dataset", "you", "defense"]
    clean: Look
    adversarial: Look
    fooled: bool
    linf: float
    l2: float
    magnified: str
    signs: str
    magnification: int
    forward: int
    """Images sent through the surrogate."""
    seconds: float
    sentence: str
    notes: list[str]


class Compared(Message):
    """Two defenses on one image."""

    plays: list[Played]
    transfer: list[int]
    """Class that each defense answers to the other's adversarial image."""
    sentence: str
