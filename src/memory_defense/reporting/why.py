"""Two sentences on why the paper's number and the honest one differ, from a record's own numbers."""

from __future__ import annotations

from memory_defense.evaluation.record import Record
from memory_defense.reporting.rows import paper_result, protocol_text, table_attacks
from memory_defense.reporting.wording import percent


def why_protocols_differ(record: Record) -> str:
    """Return the explanation; empty where there is nothing to explain.

    Parameters
    ----------
    record
        Of a system that answers through a memory slot. Without the paper's protocol, an attack on the selector
        and answers that follow the slot, there is nothing to explain.
    """
    paper = paper_result(record)
    if paper is None:
        return ""
    same_ball = [
        result.accuracy
        for result in table_attacks(record)
        if result.knowledge == "selector" and (result.norm, result.epsilon) == (paper.norm, paper.epsilon)
    ]
    following = [line.value for line in record.audit if line.check == "slot-following" and line.value is not None]
    if not same_ball or not following or following[0] < 0.5:
        return ""
    return (
        f"The paper's protocol holds the memory slot at the clean prediction while the rest is attacked, and never "
        f"attacks the selector that chooses the slot: {protocol_text(paper)}, then leaves "
        f"{percent(paper.accuracy)} % right. But the answer repeats the slot (a slot drawn at random becomes the "
        f"answer for {percent(following[0])} % of the images), so whoever attacks the selector alone, in the same "
        f"ball, leaves {percent(min(same_ball))} %."
    )
