"""The record: one JSON file for each claim, from which every table and figure is rendered.

Accuracies are fractions, epsilon is in pixel units of [0, 1], times are seconds.
"""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, model_validator

from memory_defense.files import write_text
from memory_defense.names import check_path

SCHEMA = 1

Fraction = Annotated[float, Field(ge=0, le=1)]
Parameter = str | int | float | bool | None
Verdict = Literal["pass", "fail", "not run"]


class _Strict(BaseModel):
    """Unknown keys are errors, values cannot be changed, NaN is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Accuracy(_Strict):
    """A fraction of images with its 95 % Wilson interval."""

    accuracy: Fraction
    ci95: tuple[Fraction, Fraction]


class AttackResult(Accuracy):
    """One (attack, knowledge, ball) on every image of the record, judged by the true defense."""

    attack: str
    knowledge: str
    norm: str
    epsilon: Annotated[float, Field(ge=0)]
    median_distance: float | None
    """Median distance of the fooled images to their originals, in the ball's norm; None when none is fooled."""
    forward_passes: int
    """Images sent forward through the attacked classifier, the judge's passes not counted."""
    backward_passes: int
    seconds: float
    parameters: dict[str, Parameter]
    """The attack's own configuration."""
    disagreements: int = 0
    """Images whose verdict under the attack was another than the judge's; above 0 the defense's answers depend
    on the batch or on chance."""
    note: str = ""
    """What was changed for the attack to suit the model, and why it could not run, where it could not."""
    tried: Annotated[int, Field(ge=0)] | None = None
    """Number of images that it ran on; at 0 its accuracy is the clean one and says nothing. None in records from
    before it was counted."""


class CascadeStage(_Strict):
    """One attack of a cascade: it saw only the images that were still standing."""

    attack: str
    knowledge: str
    role: Literal["scout", "main", "outward"]
    tried: int
    """Number of images that it attacked; 0 where it could not run."""
    fooled: int
    """Images among them that it broke; a scout's pilot also counts what another scout broke."""
    first: int
    """Images that it broke before any other did."""
    disagreements: int
    forward_passes: int
    backward_passes: int
    seconds: float
    parameters: dict[str, Parameter]
    note: str = ""
    """What was changed for it to suit the model, and why it could not run or was not carried on."""


class CascadeRecord(_Strict):
    """The course of one ball's cascade, in the order taken."""

    norm: str
    epsilon: Annotated[float, Field(ge=0)]
    stages: tuple[CascadeStage, ...]


class WorstCase(_Strict):
    """The share of images that no attack with any knowledge broke inside this ball, if any was tried there."""

    accuracy: Fraction | None
    """None where no attack ran on a correctly classified image, so that nothing is known."""
    ci95: tuple[Fraction, Fraction] | None
    """95 % Wilson interval of the accuracy; None where that is."""
    norm: str
    epsilon: Annotated[float, Field(ge=0)]
    undetected: Accuracy | None = None
    """The share of images that are right or flagged under every attack; only for a defense that flags."""
    tried: Annotated[int, Field(ge=0)] | None = None
    """Number of correctly classified images that an attack in this ball ran on; None in records from before it was
    counted."""

    @model_validator(mode="after")
    def _says_nothing_of_what_was_not_tried(self) -> WorstCase:
        nothing = self.accuracy is None, self.ci95 is None
        if nothing[0] != nothing[1] or (self.tried is not None and nothing[0] != (self.tried == 0)):
            raise ValueError("accuracy and ci95 must be null where tried is 0, and nowhere else")
        return self

    @property
    def measured(self) -> Accuracy | None:
        """The share with its interval; None where nothing was tried."""
        if self.accuracy is None or self.ci95 is None:
            return None
        return Accuracy(accuracy=self.accuracy, ci95=self.ci95)


class Separation(_Strict):
    """Separation of some attacked images from all clean ones of the record by a score."""

    images: Annotated[int, Field(gt=0)]
    """Number of attacked images."""
    auroc: Fraction
    """Area under the ROC curve, ties counted half; 0.5 is chance."""
    tpr_at_1: Fraction
    """Share of attacked images above the threshold with 1 % false alarms among the record's clean images."""
    tpr_at_5: Fraction
    flagged: Accuracy
    """Share of attacked images above the threshold that was chosen on held-out images."""


class DetectionResult(_Strict):
    """One score against one attack: on its own, and as a flag with a threshold from held-out clean images."""

    attack: str
    knowledge: str
    norm: str
    epsilon: Annotated[float, Field(ge=0)]
    fights_flag: bool
    """Whether the attack tries to stay below this score's threshold."""
    score: str
    false_alarms: Annotated[float, Field(gt=0, lt=1)]
    """Share of clean images that the flag was allowed."""
    threshold: float
    calibration_images: Annotated[int, Field(gt=0)]
    attacked: Separation | None
    """Every image that was attacked, whether it fools the defense or not; None where not all were kept."""
    fooled: Separation | None
    """Those among them that fool the defense; None where none does."""
    clean_flagged: Accuracy
    """False alarms among the record's clean images."""
    clean_right: Accuracy
    """Share of clean images that are right and accepted."""
    attacked_right: Accuracy
    """Share of images that are right when clean, and right or rejected under this attack."""
    parameters: dict[str, Parameter] = {}
    """The attack's own configuration."""


class CertifiedGate(_Strict):
    """What a flag is worth that accepts an image only if its certified radius is at least half of epsilon.

    An image that is right and accepted when clean, and any accepted image within epsilon of it, have the same
    label, that of the point half way: no adversary inside epsilon gets a wrong answer accepted.
    """

    epsilon: Annotated[float, Field(ge=0)]
    right_or_flagged: Accuracy
    """Proven: images right and accepted when clean, and so right or flagged whatever is done inside epsilon."""
    clean_accepted: Accuracy
    """Clean images that it accepts, right or wrong."""
    clean_wrong_accepted: Accuracy
    """Clean images that are wrong and accepted: no attack was needed."""
    wrong_and_accepted_found: Annotated[int, Field(ge=0)] | None = None
    """Images, right and accepted when clean, for which an attack inside epsilon found a wrong answer that is
    accepted: 0 where the proof is one. None where nothing was attacked."""
    attacked: Annotated[int, Field(ge=0)] = 0
    """Images that were attacked for it."""


class CertifiedResult(Accuracy):
    """The share of images that are right and proven to stay so within a radius."""

    method: str
    """How: ``smoothing``, or what the defense calls its own certificate."""
    norm: str
    epsilon: Annotated[float, Field(ge=0)]
    images: Annotated[int, Field(gt=0)]
    n: Annotated[int, Field(gt=0)] | None = None
    """Noisy copies by which a probability was bounded; None where nothing is drawn."""
    alpha: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Probability that an image's certificate is wrong; None where it is certain."""
    sigma: Annotated[float, Field(gt=0)] | None = None
    """Standard deviation of the noise, in pixel units."""
    bfloat16: bool = False
    """Whether the classifier answered its noisy copies in bfloat16: the proof is about the one that does."""
    looks: Annotated[int, Field(ge=1)] = 1
    """How often the copies were counted; with more than 1, `n` is the most that one image was asked about."""
    mean_copies: Annotated[float, Field(ge=0)] | None = None
    """Copies that an image was asked about to bound its probability, on average. None where nothing is drawn, and
    in records made before it was counted."""
    seconds: Annotated[float, Field(ge=0)]
    """For all images and all radii of the same method together."""
    broken: Annotated[int, Field(ge=0)] | None = None
    """Images for which an attack inside their certified radius changed the answer: 0 where the proof is one. None
    where nothing was attacked."""
    gate: CertifiedGate | None = None


class RejectionLoss(_Strict):
    """The total robust loss (Chen et al. 2023), 1 for a wrong and accepted image; see `evaluation.rejection`."""

    cost: Fraction
    """Of an image that nothing gets wrong and accepted, and that is flagged."""
    loss: Fraction
    """Mean over all images where it costs that to flag a clean image, and nothing to flag a moved one."""
    loss_near: Fraction
    """The same where it costs as much to flag an image that was moved by no more than `SelectionResult.near`."""


class SelectionStage(_Strict):
    """One attack on answer and flag together, on the images that those before it had not got past both."""

    attack: str
    knowledge: str
    tried: Annotated[int, Field(ge=0)]
    lost: Annotated[int, Field(ge=0)]
    """Images among them for which it found a wrong answer that is accepted; for ``alarm``, a flag."""
    seconds: Annotated[float, Field(ge=0)]
    parameters: dict[str, Parameter] = {}
    """The attack's own configuration."""


class SelectionResult(_Strict):
    """What a defense is worth that answers only what it does not flag, under attacks that fight its flag."""

    norm: str
    epsilon: Annotated[float, Field(ge=0)]
    score: str
    """Name of the score that is compared with the threshold; empty for a defense without a flag."""
    threshold: float | None
    clean_right_accepted: Accuracy
    clean_right_flagged: Accuracy
    clean_wrong_accepted: Accuracy
    wrong_accepted: Accuracy
    """Images for which some image within epsilon, the clean one included, is known to be wrong and accepted."""
    robust: Accuracy
    """Robust accuracy with rejection: right and accepted when clean, and right or flagged under every attack."""
    flagged: Accuracy
    """Flagged when clean, and never wrong and accepted."""
    near: Annotated[float, Field(ge=0)]
    """Radius in pixel units within which attacks tried to raise the flag."""
    flagged_near: Accuracy
    """Flagged when clean or within `near`, and never wrong and accepted."""
    losses: tuple[RejectionLoss, ...]
    stages: tuple[SelectionStage, ...] = ()
    """The attacks in order; the evaluation's own images come before them."""


class AuditLine(_Strict):
    """One check of the evaluation or the defense."""

    check: str
    verdict: Verdict
    value: float | None
    meaning: str
    remedy: str


class BatchInvariance(_Strict):
    """Whether an image's answers depend on the batch it travels in, as measured where the record was made."""

    granule: Annotated[int, Field(gt=0)] | None
    """Passes had a multiple of so many images, and every answer and gradient was bit for bit the same in any of
    them; None where no number was enough, or nothing could be measured."""
    randomised: bool = False
    """The answers differ from one call to the next, so that there was nothing to measure."""


OddKind = Literal["clean", "attacked", "gradient"]


class OddImages(_Strict):
    """Images for which the model had no finite answer or no finite gradient; the evaluation went on without it."""

    kind: OddKind
    """``clean``: no answer, counted as wrong. ``attacked``: no answer under some attack, counted as broken.
    ``gradient``: NaN or infinite under some attack, counted as 0 there."""
    ids: tuple[int, ...]
    """Positions in the dataset, in order."""


class Provenance(_Strict):
    """Version, revision, seed and device that the numbers were made with."""

    version: str
    git: str
    seed: int
    device: str
    torch: str
    recipe_sha256: str


class Record(_Strict):
    """What one evaluation claims, and all that is needed to check it."""

    schema_: Annotated[Literal[1], Field(alias="schema")] = SCHEMA
    defense: str
    recipe: str
    dataset: str
    images: Annotated[int, Field(gt=0)]
    clean: Accuracy
    attacks: tuple[AttackResult, ...]
    worst_case: tuple[WorstCase, ...]
    cascades: tuple[CascadeRecord, ...] = ()
    submissions: Annotated[int, Field(gt=0)] = 1
    """Number of times that the defense was asked about each image before it was judged."""
    bfloat16: bool = False
    """Whether the attacks computed their gradients in bfloat16."""
    batch_invariance: BatchInvariance | None = None
    """If it holds, neither order, nor batch sizes, nor the number of processes changed an outcome; None in
    records from before it was measured."""
    odd_images: tuple[OddImages, ...] = ()
    """Images without a finite answer or gradient, by kind; empty where every image had both."""
    detection: tuple[DetectionResult, ...] = ()
    """One entry for each score and attack; empty where detection was not evaluated."""
    selection: tuple[SelectionResult, ...] = ()
    """One entry for each ball; empty where answer and flag were not attacked together."""
    certified: tuple[CertifiedResult, ...] = ()
    """One entry for each radius; empty where nothing was certified."""
    certificates: str | None = None
    """Name of the file beside the record with every image's certified answer and radius."""
    certificates_sha256: str = ""
    per_image: str | None = None
    """Name of the file beside the record with every image's verdict, first breaker and adversarial image."""
    per_image_sha256: str = ""
    """Checksum that this file carries; empty in records from before there was one."""
    notes: tuple[str, ...] = ()
    """What was skipped, substituted or assumed, a line each: of the images first (`Options.notes`)."""
    audit: tuple[AuditLine, ...]
    provenance: Provenance
    _place: Path | None = PrivateAttr(default=None)

    @property
    def place(self) -> Path | None:
        """The file that the record was read from, or first written to; None for one that has none."""
        return self._place

    def __eq__(self, other: object) -> bool:
        """Return whether two records say the same, wherever their files are."""
        return isinstance(other, Record) and dict(self) == dict(other)

    __hash__ = None  # pyright: ignore[reportAssignmentType] - it holds dictionaries

    def __repr__(self) -> str:
        """Return one line: whose record it is, and what was found."""
        worst = [
            f"{one.norm} {one.epsilon:.4g}: "
            + ("not tried" if one.accuracy is None else f"{100 * one.accuracy:.1f} %")
            for one in self.worst_case
        ]
        found = [f"clean {100 * self.clean.accuracy:.1f} %", *([f"worst case {', '.join(worst)}"] if worst else [])]
        proven = [f"{one.norm} {one.epsilon:.4g}: {100 * one.accuracy:.1f} %" for one in self.certified]
        found += [f"proven {', '.join(proven)}"] if proven else []
        failed = sum(line.verdict == "fail" for line in self.audit)
        found.append(f"audit: {failed} of {len(self.audit)} checks failed" if self.audit else "audit: none")
        return f"<Record of {self.defense!r} on {self.images} images of {self.dataset}: {'; '.join(found)}>"

    def _repr_html_(self) -> str:
        """Return what a notebook shows: the headline, what the audit says, and the curve if there is one."""
        return _view("record_html")(self)

    def to_dataframe(self, each: Literal["case", "image"] = "case") -> Any:
        """Return the record as a `pandas.DataFrame`; pandas is the extra ``records``.

        Parameters
        ----------
        each
            What a row stands for: a ``case`` (clean, each attack, each stage of a cascade, each worst case and each
            certified radius, in long form: `evaluation.frames.case_rows`), or an ``image``, those that are wrong or
            broken included, from the file of every image beside the record.

        Raises
        ------
        ValueError
            Without pandas, and for images where that file is not there.
        """
        return _view("record_frame")(self, each)

    def plot(self, norm: str | None = None, *, axes: Any = None) -> Any:
        """Draw accuracy (in %) against epsilon with 95 % intervals, and return the matplotlib axes.

        Parameters
        ----------
        norm
            ``linf`` or ``l2``; None is the one in which most is known.
        axes
            Axes to draw into; None makes a figure.

        Raises
        ------
        ValueError
            For a norm in which the record has no radius.
        """
        return _view("record_plot")(self, norm, axes=axes)

    def write(self, path: Path | str) -> None:
        """Write the record as JSON with a checksum, atomically."""
        place = check_path(path, "path", "record.json")
        from memory_defense.checksums import sealed  # a record that is never written needs none

        content = sealed(self.model_dump(by_alias=True, mode="json"))
        write_text(place, json.dumps(content, indent=1, allow_nan=False) + "\n")
        self._place = self._place or place

    @classmethod
    def read(cls, path: Path | str) -> Record:
        """Read a record.

        Raises
        ------
        ValueError
            For a file that is no record, was changed since it was written, or whose numbers contradict each other;
            the text names the file and the first offending field.
        """
        place = check_path(path, "path", "record.json")
        if place.is_dir():
            raise ValueError(f"{place} is a folder; give the record in it, such as {place / 'record.json'}")
        if not place.exists():
            raise ValueError(f"{place} does not exist; give the file that an evaluation wrote, such as record.json")
        from memory_defense.checksums import parted

        text, damage = parted(place.read_bytes())
        try:
            record = cls.model_validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the file"
            raise ValueError(f"{path} is not a record of schema {SCHEMA}: {where}: {first['msg']}") from error
        from memory_defense.evaluation.consistency import contradiction  # only who reads a record back needs it

        wrong = contradiction(record.model_dump(mode="json"))
        if wrong:
            raise ValueError(f"{path} contradicts itself: {wrong}; restore it, or evaluate again")
        if damage:
            raise ValueError(f"{path} is damaged: {damage}")
        record._place = place
        return record


def _view(name: str) -> Any:
    """Return what shows a record, by its name at the public door: this room knows no other that renders."""
    return getattr(import_module("memory_defense"), name)
