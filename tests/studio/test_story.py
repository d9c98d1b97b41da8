"""The sentence says what happened, whatever happened."""

import pytest

from memory_defense.studio.messages import Look, Proof
from memory_defense.studio.story import what_happened

NAMES = ("boot", "sneaker", "apron")


def seen(answer: int, slot: int | None = None, flagged: bool | None = None, proof: Proof | None = None) -> Look:
    return Look(
        picture="",
        answer=answer,
        probabilities=[],
        selector=None,
        slot=slot,
        attention=None,
        slots=None,
        flagged=flagged,
        flag_score=None if flagged is None else "reconstruction",
        proof=proof,
    )


def proven(answer: int, radius: float, accepted: bool | None) -> Look:
    return seen(answer, proof=Proof(norm="l2", radius=radius, accepted=accepted))


@pytest.mark.parametrize(
    ("clean", "attacked", "said"),
    [
        (proven(0, 0.61, True), proven(1, 0.1, False), "accepts the clean image and flags the attacked one."),
        (
            proven(0, 0.61, True),
            proven(0, 0.4, True),
            "accepts both, which proves that their answers are the same.",
        ),
        (proven(0, 0.1, False), proven(0, 0.4, True), "flags even the clean image."),
        (proven(0, 0.61, None), proven(0, 0.4, None), "within L2 0.61 of the clean image gets another answer."),
        (proven(0, 0.0, None), proven(1, 0.4, None), "Nothing is proven."),
    ],
)
def test_what_is_proven_is_said(clean: Look, attacked: Look, said: str) -> None:
    assert what_happened(clean, attacked, 0, NAMES, moved=True).endswith(said)


@pytest.mark.parametrize(
    ("clean", "attacked", "said"),
    [
        (seen(0, 0), seen(1, 1), "open the sneaker slot instead of the boot slot, so the answer is now sneaker."),
        (seen(0, 0), seen(2, 1), "open the sneaker slot instead of the boot slot, and the answer is now apron."),
        (
            seen(0, 0),
            seen(2, 0),
            "opened the boot slot, but the second classifier now answers apron for the redrawn image.",
        ),
        (seen(0, 0), seen(0, 1), "it made the selector open the sneaker slot, but the answer is still boot."),
        (seen(0, 0), seen(0, 0), "The attack failed: the answer is still boot."),
        (seen(0), seen(1), "The attack worked: the answer changed from boot to sneaker."),
        (seen(1, 1), seen(1, 1), "answers sneaker for the clean image: it is wrong without any attack."),
        (seen(0, 0), seen(1, 1, True), "answer is now sneaker. The attacked image was flagged as suspicious."),
        (seen(0, 0), seen(1, 1, False), "answer is now sneaker. It was not flagged, so there is no warning."),
        (seen(0, 0), seen(0, 0, False), "The attack failed: the answer is still boot."),
    ],
)
def test_the_sentence(clean, attacked, said) -> None:
    assert what_happened(clean, attacked, 0, NAMES, moved=True).endswith(said)


def test_an_untouched_image_is_called_so() -> None:
    assert what_happened(seen(0, 0), seen(0, 0), 0, NAMES, moved=False).startswith("No pixel was changed")
