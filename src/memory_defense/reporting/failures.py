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
        "The result depends on what the attacker knows: the weakest kind of attacker alone would make the "
        "defense look up to {share} points more robust than it is. The worst case counts all kinds.",
    ),
    "accuracy falls with epsilon": Failure(
        "doubt",
        "Accuracy rises by {share} points although the attack may change more of the image: the attack "
        "fails at this epsilon.",
    ),
    "accuracy reaches chance at a large epsilon": Failure(
        "decisive",
        "{share} % of the images stay right although the attack may turn every image into plain grey: the "
        "attack fails.",
    ),
    "the curve against epsilon reaches 0 %": Failure(
        "doubt",
        "The curve of accuracy ends at {share} % and not at 0 %: its largest epsilon is too small, or the "
        "attack fails.",
    ),
    "step no larger than epsilon": Failure(
        "note",
        "An attack uses steps of {value} times epsilon, so it jumps from one edge of the ball to the "
        "other. That is acceptable for settings taken from a publication; the other attacks do not do it.",
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
        "Asked twice about the same clean images, the defense changed between right and wrong on {share} % "
        "of them.",
    ),
    "answers are logits, not probabilities": Failure(
        "decisive",
        "The defense returns probabilities and not logits (the values before the softmax): gradients may "
        "vanish, and attacks that need them fail.",
    ),
    "no randomness, or attacked in expectation and judged often": Failure(
        "decisive",
        "The answers are drawn at random, and the attacks did not average over the draws, or each image was asked "
        "only once: the attacks were too weak.",
    ),
    "the defense is given images and nothing else": Failure(
        "decisive",
        "The defense requires {value} inputs other than the images: such an input may contain the answer.",
    ),
    "shuffled images take their answers along": Failure(
        "decisive",
        "The answer to {share} % of the images changes with their position in the batch: it depends on the "
        "position and not on the image.",
    ),
    "meaningless images do not get the right answers": Failure(
        "decisive",
        "{share} % of the images, replaced by noise or a black image, still get the right label: the "
        "answers do not come from the images.",
    ),
    "same answer alone and in a batch": Failure(
        "doubt",
        "The answer to {share} % of the images changes with the other images in the batch.",
    ),
    "same answer alone and in company": Failure(
        "doubt",
        "The answer to {share} % of the images changes with the other images in the batch.",
    ),
    "the attack's verdict is the judge's": Failure(
        "doubt",
        "On {share} % of the attacked images, the attacked classifier and the defense give different "
        "answers: the attack worked on a different model.",
    ),
    "no optimisation while answering": Failure(
        "doubt",
        "The defense runs {value} backward passes of its own while it answers: gradients through them mislead an "
        "attack.",
    ),
    "asking leaves the defense as it was": Failure(
        "decisive",
        "Answering changes the defense ({value} of its parameters or buffers): every answer depends on the "
        "earlier inputs.",
    ),
    # is there a gradient to follow?
    "the cross-entropy has a gradient": Failure(
        "doubt",
        "For {share} % of the images the cross-entropy has no gradient: an attack that follows this "
        "gradient cannot change them.",
    ),
    "the margin loss has a gradient": Failure(
        "decisive",
        "For {share} % of the images the margin loss has no gradient: an attack that follows this gradient "
        "cannot change them.",
    ),
    "the gradient is that of the answers": Failure(
        "decisive",
        "For {share} % of the images the answers do not change as their gradient says: it is the gradient of "
        "something else, and an attack that follows it is led astray.",
    ),
    "attacks find all that 50 draws of noise do": Failure(
        "doubt",
        "Random noise broke {share} % of the tested images, which no attack had broken: the attacks were too weak.",
    ),
    "the attack breaks a model that is known to break": Failure(
        "decisive",
        "The attacks found only {share} % of the adversarial examples that were planted on purpose: images "
        "that survive these attacks prove nothing.",
    ),
    # which attacks were run
    "no gradient-free attack finds what gradients miss": Failure(
        "decisive",
        "An attack that needs no gradient broke {share} % of the images, and no gradient attack broke those: the "
        "gradients mislead, or the gradient attacks were too weak.",
    ),
    "no transferred image finds what white-box attacks miss": Failure(
        "doubt",
        "{share} % of the images were broken only by images made for another model, or found earlier: the "
        "gradients misled the attacks on the defense itself.",
    ),
    "every gradient attack had a gradient": Failure(
        "decisive",
        "{share} % of the gradient attacks found no gradient and could not run: the accuracy under them is "
        "the clean accuracy and proves nothing.",
    ),
    "classes suit the losses": Failure(
        "doubt",
        "The model answers with {value} classes, which does not fit the data, or the losses that the attacks used.",
    ),
    "every published white-box knowledge was attacked": Failure(
        "doubt",
        "The attacks used only {share} % of the surrogates that this defense publishes for white-box attacks.",
    ),
    "targeted and untargeted gradient attacks were run": Failure(
        "doubt",
        "Targeted and untargeted gradient attacks were not both run.",
    ),
    "an attack without gradients was run": Failure(
        "doubt", "No attack without gradients was run: misleading gradients would not have been noticed."
    ),
    "an attack that sees labels alone was run": Failure(
        "doubt", "No attack that sees the predicted class alone was run: misleading outputs would not be noticed."
    ),
    "a transfer attack was run": Failure("doubt", "No image made for another model was tried."),
    "more than one norm was tried": Failure(
        "note",
        "Only one norm was used: nothing is known of changes that are measured in another norm, such as "
        "L-inf or L2.",
    ),
    # defenses that answer through a memory slot
    "slot-following": Failure(
        "note",
        "The answer is the class of the chosen memory slot, whatever the image shows: with a slot drawn at "
        "random, {share} % of the images are answered with that slot's class.",
    ),
    "slot-following on noise": Failure(
        "note",
        "For pure noise, too, the answer is the class of a slot drawn at random, {share} % of the time.",
    ),
    "slot-following on black images": Failure(
        "note",
        "For black images, too, the answer is the class of a slot drawn at random, {share} % of the time.",
    ),
    "agreement with the selector": Failure(
        "note",
        "{share} % of the answers are those of the selector, the part that chooses the memory slot: the "
        "defense is exactly as robust as its selector.",
    ),
    "zero-gradient pixels with frozen slots": Failure(
        "note",
        "With a fixed memory slot, {share} % of the pixels have no gradient: the paper's own attack never "
        "changes them.",
    ),
    "hard shrink removes something": Failure(
        "note",
        "The hard shrink removes nothing: its threshold lies below every weight, so the memory is not "
        "sparse as the paper describes.",
    ),
    "the non-target loss has an effect": Failure(
        "note",
        "The non-target loss does nothing: it makes up {share} % of the gradient that trains the memory.",
    ),
    # certificates
    "no attack broke a certificate": Failure(
        "decisive",
        "{value} of the proofs are wrong: an attack changed the answer inside the proven radius.",
    ),
    "certificates hold up to their edge": Failure(
        "decisive",
        "{value} of the proofs are wrong: the answer changes inside the proven radius.",
    ),
    "no attack got a wrong answer past the gate": Failure(
        "decisive", "{value} wrong answers were accepted, although it was proven that none can be."
    ),
    "n large enough for the radius claimed": Failure(
        "note",
        "The requested radius is {value} times the largest one that this number of noisy copies can prove: "
        "nothing can be proven there for any classifier.",
    ),
    "sums of image and noise are exact": Failure(
        "decisive", "The noise is too small or too large to be added exactly: the proofs do not cover the rounding."
    ),
    # what a model keeps, and what it does beside answering
    "earlier questions change no answer": Failure(
        "decisive",
        "The model stores its inputs: after other inputs, its answer to {share} % of the images is different.",
    ),
    "the order of questions changes no answer": Failure(
        "decisive",
        "Asked from one side, the model's answers stay {share} % of the way longer than asked from the other: it "
        "answers by what it was asked before.",
    ),
    "answering leaves files and networks alone": Failure(
        "decisive",
        "The model uses files, networks or programs while it answers: it can store its inputs there.",
    ),
    "the clock changes no answer": Failure(
        "decisive",
        "The answer to {share} % of the images changes when the clock shows another day.",
    ),
    "images between two grey levels are answered as those at whole ones": Failure(
        "decisive",
        "Images with values between two grey levels are treated differently from images with whole grey "
        "levels, which misleads attacks.",
    ),
    "images never seen withstand as those judged do": Failure(
        "decisive",
        "Robust accuracy differs by {share} points between the judged images and images that the model has "
        "never seen: the model knows the judged images.",
    ),
    "answers change gradually on the way to images never seen": Failure(
        "decisive",
        "For {share} % of the images the outputs jump somewhere on the way to another image: around the images "
        "judged something else answers, or a label is all that is answered.",
    ),
    "answers do not switch half-way between images": Failure(
        "decisive",
        "Half-way between two images the answer jumps from one label to the other: the model answers with "
        "the label of the nearest image that it stores.",
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
        return "No audit was needed: a proof holds for every attack. Its assumptions are stated with its numbers."
    if not lines:
        return "No check was run, so it is unknown whether these numbers can be believed."
    passed, skipped = (sum(line.verdict == one for line in lines) for one in ("pass", "not run"))
    rest = f"{passed} passed and {skipped} {'was' if skipped == 1 else 'were'} not run"
    if not failed:
        return f"No check casts doubt on these numbers: none of {len(lines)} checks failed, {rest}."
    heaviest = weight_of(failed[0])
    return f"{_SAID[heaviest]}: {len(failed)} of {len(lines)} checks failed, {rest}."


_SAID: dict[Weight, str] = {
    "decisive": "The robust accuracy may be far too high",
    "doubt": "The robust accuracy may be somewhat too high",
    "note": "No check casts doubt on these numbers; the failed ones describe the defense and the attacks",
}
