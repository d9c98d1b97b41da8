"""What a failed check of the audit says, in plain words.

A check is named by what should be true ("same answer when asked twice"), so its name is no word for its failure.
Here is what is wrong when it fails, and how much that weighs. A check that is not here is described by its own
meaning.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from memory_defense.evaluation.record import AuditLine, Record
from memory_defense.reporting.wording import number, percent, plain

Weight = Literal["decisive", "doubt", "note"]
"""A failed check alone makes the worst case worthless, lets some doubt on it, or says what the defense does."""


@dataclass(frozen=True)
class Failure:
    """What is wrong when a check fails: a sentence with places for its ``{value}`` or ``{share}`` in percent."""

    weight: Weight
    sentence: str


FAILURES: dict[str, Failure] = {
    # what the attacks found
    "iterative at least as strong as single-step": Failure(
        "doubt",
        "An attack of many steps leaves {share} points more images right than one of a single step: it got stuck, "
        "and a better attack would break more.",
    ),
    "attack stronger than random noise": Failure(
        "decisive",
        "The attacks break hardly more images than random noise does ({share} points): they do not work.",
    ),
    "every knowledge finds more than the weakest attack does": Failure(
        "note",
        "How robust the defense looks depends on what the attacker knows: judged by one kind of attacker alone, it "
        "would look up to {share} points better than it is. The worst case counts all of them.",
    ),
    "accuracy falls with epsilon": Failure(
        "doubt",
        "Accuracy rises by {share} points where the attack may change more of the image. It cannot: the attack "
        "fails there.",
    ),
    "accuracy reaches chance at a large epsilon": Failure(
        "decisive",
        "Even where the attack may turn every image into plain grey, {share} % stay right: the attack fails for a "
        "reason of its own.",
    ),
    "the curve against epsilon reaches 0 %": Failure(
        "doubt",
        "The curve of accuracy ends at {share} % and not at 0: it ends at too small a change, or the attack fails.",
    ),
    "step no larger than epsilon": Failure(
        "note",
        "An attack was set to steps of {value} times epsilon: it jumps from one edge of what it may change to the "
        "other. Published settings may do so; the other attacks do not.",
    ),
    "every image inside its ball and inside [0, 1]": Failure(
        "decisive", "An attack changed an image by {value} more than it was allowed to: its result does not count."
    ),
    "clean accuracy, with its interval, is above chance": Failure(
        "decisive",
        "On clean images the classifier is right on {share} %, which guessing could reach as well: there is no "
        "robustness to measure.",
    ),
    "twice the iterations find nothing more": Failure(
        "doubt",
        "With twice the steps an attack breaks {share} % of all images in addition: the shorter attack had not "
        "finished, and perhaps the longer one has not either.",
    ),
    "gradient attacks start more than once": Failure(
        "doubt", "No gradient attack started more than once: another start may find what this one missed."
    ),
    # how the defense behaves
    "same answer when asked twice": Failure(
        "doubt",
        "Asked a second time about the same clean images, the defense is right on others: {share} % changed.",
    ),
    "answers are logits, not probabilities": Failure(
        "decisive",
        "The defense answers with probabilities and not with the values before the softmax: gradients may vanish "
        "there, and attacks that need them fail.",
    ),
    "no randomness, or attacked in expectation and judged often": Failure(
        "decisive",
        "The answers are drawn at random, and the attacks did not average over the draws, or each image was asked "
        "only once: the attacks were too weak.",
    ),
    "the defense is given images and nothing else": Failure(
        "decisive",
        "The defense must be told {value} more things than the image: whoever tells it may tell it the answer.",
    ),
    "shuffled images take their answers along": Failure(
        "decisive",
        "{share} % of the images get another answer at another place of the batch: the answer belongs to the place "
        "and not to the image.",
    ),
    "meaningless images do not get the right answers": Failure(
        "decisive",
        "Noise or black images get the label of the image in whose place they stand, {share} % of them: the "
        "answers do not come from the image.",
    ),
    "same answer alone and in a batch": Failure(
        "doubt", "{share} % of the images are answered otherwise when other images stand beside them in the batch."
    ),
    "same answer alone and in company": Failure(
        "doubt", "{share} % of the images are answered otherwise when other images stand beside them in the batch."
    ),
    "the attack's verdict is the judge's": Failure(
        "doubt",
        "On {share} % of the attacked images the classifier that was attacked answers otherwise than the defense "
        "that is judged: the attack worked on something else.",
    ),
    "no optimisation while answering": Failure(
        "doubt",
        "The defense runs {value} backward passes of its own while it answers: gradients through them mislead an "
        "attack.",
    ),
    "asking leaves the defense as it was": Failure(
        "decisive",
        "Answering changes the defense ({value} of its parameters or buffers): every answer depends on what it was "
        "asked before.",
    ),
    # is there a gradient to follow?
    "the cross-entropy has a gradient": Failure(
        "doubt",
        "For {share} % of the images the cross-entropy has no gradient: an attack that follows it cannot move "
        "there.",
    ),
    "the margin loss has a gradient": Failure(
        "decisive",
        "For {share} % of the images the margin loss has no gradient: an attack that follows it cannot move there.",
    ),
    "attacks find all that 50 draws of noise do": Failure(
        "doubt",
        "Random noise broke {share} % of the images that it was tried on and that no attack had broken: the "
        "attacks were too weak for these.",
    ),
    "the attack breaks a model that is known to break": Failure(
        "decisive",
        "Weak spots were planted on purpose, and the attacks found {share} % of them: what they leave standing "
        "proves nothing.",
    ),
    # which attacks were run
    "no gradient-free attack finds what gradients miss": Failure(
        "decisive",
        "An attack that needs no gradient broke {share} % of the images, and no gradient attack broke those: the "
        "gradients mislead, or the gradient attacks were too weak.",
    ),
    "no transferred image finds what white-box attacks miss": Failure(
        "doubt",
        "{share} % of the images were broken only by images made for another model, or found earlier: the attacks "
        "on the defense itself were misled.",
    ),
    "every gradient attack had a gradient": Failure(
        "decisive",
        "{share} % of the gradient attacks found no gradient and could not run: the accuracy under them is the "
        "clean one and proves nothing.",
    ),
    "classes suit the losses": Failure(
        "doubt",
        "The model answers with {value} classes, which does not fit the data, or the losses that the attacks used.",
    ),
    "every published white-box knowledge was attacked": Failure(
        "doubt", "Only {share} % of the ways in which this defense can be attacked directly were tried."
    ),
    "targeted and untargeted gradient attacks were run": Failure(
        "doubt", "Attacks that seek one wrong class, and attacks that seek any, were not both run."
    ),
    "an attack without gradients was run": Failure(
        "doubt", "No attack without gradients was run: misleading gradients would not have been noticed."
    ),
    "an attack that sees labels alone was run": Failure(
        "doubt", "No attack that sees the predicted class alone was run: misleading outputs would not be noticed."
    ),
    "a transfer attack was run": Failure("doubt", "No image made for another model was tried."),
    "more than one norm was tried": Failure(
        "note", "Images were changed under one norm only: nothing is known of changes that another one bounds."
    ),
    # defenses that answer through a memory slot
    "slot-following": Failure(
        "note",
        "The answer is the memory slot that was chosen, whatever the image shows: with a slot drawn at random, "
        "{share} % of the images are answered with that slot's class.",
    ),
    "slot-following on noise": Failure(
        "note", "Even pure noise is answered with the class of a slot drawn at random, {share} % of the time."
    ),
    "slot-following on black images": Failure(
        "note", "Even a black image is answered with the class of a slot drawn at random, {share} % of the time."
    ),
    "agreement with the selector": Failure(
        "note",
        "{share} % of the answers are those of the selector, the part that chooses the memory slot: the defense is "
        "as robust as its selector and no more.",
    ),
    "zero-gradient pixels with frozen slots": Failure(
        "note",
        "With the memory slot held, {share} % of the pixels have no gradient: the paper's own attack never changes "
        "them.",
    ),
    "hard shrink removes something": Failure(
        "note",
        "The hard shrink removes nothing: its threshold lies below every weight, and the sparse memory that the "
        "paper describes is not there.",
    ),
    "the non-target loss has an effect": Failure(
        "note",
        "The non-target loss does nothing: it makes up {share} % of the gradient that trains the memory.",
    ),
    # certificates
    "no attack broke a certificate": Failure(
        "decisive", "{value} of the proofs are wrong: an attack changed the answer inside the radius proven."
    ),
    "certificates hold up to their edge": Failure(
        "decisive", "{value} of the proofs are wrong: the answer changes inside the radius proven."
    ),
    "no attack got a wrong answer past the gate": Failure(
        "decisive", "{value} wrong answers were accepted, although it was proven that none can be."
    ),
    "n large enough for the radius claimed": Failure(
        "note",
        "The radius asked for is {value} times the largest that so many noisy copies can prove: nothing is proven "
        "there, whatever the classifier.",
    ),
    "sums of image and noise are exact": Failure(
        "decisive", "The noise is too small or too large to be added exactly: the proofs do not cover the rounding."
    ),
    # what a model keeps, and what it does beside answering
    "earlier questions change no answer": Failure(
        "decisive",
        "The model keeps what it is asked: after other questions it answers {share} % of the images otherwise.",
    ),
    "the order of questions changes no answer": Failure(
        "decisive",
        "Asked from one side, the model's answers stay {share} % of the way longer than asked from the other: it "
        "answers by what it was asked before.",
    ),
    "answering leaves files and networks alone": Failure(
        "decisive",
        "The model uses files, networks or programs while it answers: it can keep what it is asked there.",
    ),
    "the clock changes no answer": Failure(
        "decisive", "{share} % of the images are answered otherwise when the clock says that it is another day."
    ),
    "images between two grey levels are answered as those at whole ones": Failure(
        "decisive",
        "Images between two grey levels are treated otherwise than those at whole ones, which misleads attacks.",
    ),
    "images never seen withstand as those judged do": Failure(
        "decisive",
        "Images that the model has never seen differ by {share} points in robust accuracy from those judged: the "
        "model knows the images that it is judged on.",
    ),
    "answers change gradually on the way to images never seen": Failure(
        "decisive",
        "For {share} % of the images the outputs jump somewhere on the way to another image, the answer the same: "
        "around the images judged something else answers.",
    ),
    "answers do not switch half-way between images": Failure(
        "decisive",
        "Half-way between two images the answer jumps from one label to the other: the model answers with the "
        "label of the nearest image that it keeps.",
    ),
    "the model holds none of the images judged": Failure(
        "decisive", "{share} % of the images that the model is judged on are stored inside it."
    ),
}
"""What is wrong when a check fails, by the check's name."""


def failure(line: AuditLine) -> str:
    """Return what is wrong, as a sentence; for a check that is not known here, what it measures and found."""
    known = FAILURES.get(line.check)
    if known is None:
        return f"The check “{plain(line.check)}” failed: {plain(line.meaning)} (found: {number(line.value)})."
    share = number(None) if line.value is None else percent(line.value)
    return known.sentence.format(value=number(line.value), share=share)


def weight_of(line: AuditLine) -> Weight:
    """Return how much a failed check weighs; one that is not known lets some doubt."""
    known = FAILURES.get(line.check)
    return "doubt" if known is None else known.weight


def failed_lines(record: Record) -> tuple[AuditLine, ...]:
    """Return the failed checks, those that weigh most first."""
    order: Sequence[Weight] = ("decisive", "doubt", "note")
    failed = (line for line in record.audit if line.verdict == "fail")
    return tuple(sorted(failed, key=lambda line: order.index(weight_of(line))))


def verdict(record: Record) -> str:
    """Return what alone makes the worst case worthless, for the headline; nothing where no such check failed."""
    decisive = [line for line in failed_lines(record) if weight_of(line) == "decisive"]
    if not decisive:
        return ""
    said = " ".join(map(failure, decisive[:2]))
    left = len(decisive) - 2
    more = f" {left} more such check{'s' if left > 1 else ''} failed." if left > 0 else ""
    return f"Do not rely on these numbers: the robust accuracy may be far too high. {said}{more}"


def audit_sentence(record: Record) -> str:
    """Return the audit's verdict in one sentence: what it says of the numbers, and how many checks failed."""
    lines, failed = record.audit, failed_lines(record)
    if not lines and record.certified:
        return "None was needed: a proof holds against every attack; what it rests on stands beside its numbers."
    if not lines:
        return "No check was run, so nothing says whether these numbers can be believed."
    passed, skipped = (sum(line.verdict == one for line in lines) for one in ("pass", "not run"))
    rest = f"{passed} passed and {skipped} {'was' if skipped == 1 else 'were'} not run"
    if not failed:
        return f"Nothing speaks against these numbers: none of {len(lines)} checks failed, {rest}."
    heaviest = weight_of(failed[0])
    return f"{_SAID[heaviest]}: {len(failed)} of {len(lines)} checks failed, {rest}."


_SAID: dict[Weight, str] = {
    "decisive": "The robust accuracy may be far too high",
    "doubt": "The robust accuracy may be somewhat too high",
    "note": "Nothing speaks against these numbers; what failed says how the defense works and how it was attacked",
}
