"""Two defenses on one image: each attacked on its own, then each handed the image made against the other."""

from __future__ import annotations

from memory_defense.contracts import Images
from memory_defense.studio.knowledge import knowledge_of
from memory_defense.studio.library import Library
from memory_defense.studio.messages import Compared, CompareRequest, Played
from memory_defense.studio.play import answer_to, play
from memory_defense.studio.story import which_stands
from memory_defense.studio.tickets import Ticket

_FALLBACK = "end-to-end"


def compare(library: Library, wanted: CompareRequest, ticket: Ticket) -> Compared:
    """Return both attacks on the image and what each defense answers to the other's adversarial image.

    A defense that does not publish the wanted knowledge is attacked end to end, or with the first it publishes;
    its notes say so.

    Raises
    ------
    ValueError
        If the runs take different images, and for what `play.play` refuses.
    """
    runs = [library.find(name) for name in wanted.runs]
    first, second = (library.shape(run) for run in runs)
    if first != second:
        raise ValueError(
            f"{wanted.runs[0]} takes images of {first}, {wanted.runs[1]} those of {second}; "
            "choose two runs of one dataset"
        )
    posed = library.pose(wanted.image, wanted.label, runs[0])
    subjects = [library.subject(name) for name in wanted.runs]
    played: list[tuple[Played, Images]] = []
    for subject in subjects:
        published = knowledge_of(subject.defense)
        knowledge = wanted.attack.knowledge
        if knowledge not in published:
            knowledge = _FALLBACK if _FALLBACK in published else next(iter(published))
        result, image = play(subject, posed, wanted.attack.model_copy(update={"knowledge": knowledge}), ticket)
        if knowledge != wanted.attack.knowledge:
            note = f"There is no {wanted.attack.knowledge} for this model; the attacker knows {knowledge} instead."
            result = result.model_copy(update={"notes": [*result.notes, note]})
        played.append((result, image))
    plays = [result for result, _ in played]
    transfer = [
        answer_to(subject.defense, image, wanted.attack.seed)
        for subject, (_, image) in zip(subjects, reversed(played), strict=True)
    ]
    sentence = which_stands(plays, transfer, subjects[0].classes)
    return Compared(plays=plays, transfer=transfer, sentence=sentence)
