"""Certifying a classifier: how many images are right, and proven to stay so, within each radius."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Unpack

from memory_defense.certificates.smoothing import Smoothing
from memory_defense.checks import real_number, shown
from memory_defense.contracts import Certificates, Certifying, Classifier, Defense, Labels, Progress
from memory_defense.data.images import ImageSet, Splits
from memory_defense.evaluation.audit.sampling import sampling_lines
from memory_defense.evaluation.certifying import ByItself, BySmoothing, Method, Proofs, certify_all
from memory_defense.evaluation.metrics import accuracy
from memory_defense.evaluation.options import OptionFields, Options
from memory_defense.evaluation.pixels import Pictures, Pixels
from memory_defense.evaluation.place import Claim, check_place, proofs_state_path, tell_replaced
from memory_defense.evaluation.proofs import certified_result
from memory_defense.evaluation.provenance import provenance
from memory_defense.evaluation.record import CertifiedResult, Record
from memory_defense.evaluation.store import discard
from memory_defense.foreign import undisturbed
from memory_defense.names import check_path
from memory_defense.outputs import beside, check_file
from memory_defense.ranks import current, in_company
from memory_defense.recipes.recipe import Recipe
from memory_defense.tensorfiles import write_tensors
from memory_defense.threat import ball
from memory_defense.workflows.arguments import (
    ImagesLike,
    LabelsLike,
    Radii,
    check_model,
    labels_of,
    options_of,
    paired,
    pictures_of,
)
from memory_defense.workflows.arguments import radii as radii_of
from memory_defense.workflows.evaluate import alone_at, as_defense
from memory_defense.workflows.first_answer import as_found, introduced, on_device
from memory_defense.wrappers import apart, ordinary_modes, torch_defaults

CERTIFICATES = "certificates.safetensors"
"""Ending of the file of every image's certificate."""


def certify(
    model: Classifier | Defense,
    images: ImagesLike | Pixels,
    labels: LabelsLike | None = None,
    *,
    radii: Radii,
    smoothing: Smoothing | float | None = None,
    out: Path | str | None = None,
    options: Options | None = None,
    **also: Unpack[OptionFields],
) -> Record:
    """Prove how many images keep their right answer within each radius, and return it as a record.

    With `smoothing` any classifier will do: only its answers are asked for, and what is certified is the smoothed
    classifier. Without, the model proves it itself (`contracts.Certifying`).

    Beside each radius stands what the gate makes of it: a flag that accepts an image only if it is certified within
    half of the radius, which no adversary inside the radius gets a wrong answer past.

    Parameters
    ----------
    model
        Images (B, C, H, W) in [0, 1] to logits (B, K): a module or a function.
    images, labels
        As `memory_defense.evaluate` takes them.
    radii
        In pixel units, in L2 for smoothing and in the model's own norm without.
    smoothing
        How to smooth; a number is the noise's standard deviation. None where the model has a certificate.
    out
        File of the record, with every image's answer and radius in a file beside it. A stopped certification goes
        on from there. None writes nothing.
    options
        Seed, device, ids, names, progress, resuming; the others have no part in it.
    also
        Any of them as a keyword of its own, before what `options` says.

    Examples
    --------
    >>> import memory_defense, torch
    >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 4))
    >>> images = torch.rand(8, 1, 4, 4)
    >>> smoothing = memory_defense.Smoothing(sigma=1e-4, samples=100)
    >>> record = memory_defense.certify(net, images, net(images).argmax(1), radii=[0, 1], smoothing=smoothing)
    >>> [one.accuracy for one in record.certified]
    [1.0, 0.0]

    Raises
    ------
    ValueError
        For inputs or options that make no sense, or a model without a certificate of its own and no `smoothing`.
    """
    check_model(model)
    chosen, around, place = options_of(options, also), torch_defaults(), None
    if out is not None:
        place = check_path(out, "out", "certificates.json")
    together = in_company("memory_defense.certify", alone=chosen.alone)
    with undisturbed(), ordinary_modes(model) as left, together, apart(model):
        chosen = replace(chosen, notes=(*chosen.notes, *left))
        smooth = _smoothing_of(smoothing)
        if smooth is None and not isinstance(model, Certifying):
            raise ValueError(
                "the model proves nothing by itself; smooth it with smoothing=0.25, say, which certifies any "
                "classifier in L2"
            )
        norm = "l2" if smooth is not None or not isinstance(model, Certifying) else model.certified_norm
        asked = sorted({ball(norm, radius).epsilon for radius in radii_of(radii)})
        defense = as_defense(model)
        with on_device(defense, chosen.device), alone_at(place):
            given, truth, order = paired(images, labels)
            chosen = replace(chosen, notes=(*chosen.notes, *filter(None, [order])))
            pixels = pictures_of(given)
            pixels = pixels if chosen.device is None else pixels.to(chosen.device)
            truth = labels_of(truth, pixels)
            defense, _ = introduced(as_found(defense, *around), pixels, follows=False)
            method = method_of(defense, model, smooth, asked, chosen)
            record = certified_record(defense, pixels, truth, method, asked, chosen, place, smoothing=smooth)
    return record


def options_for(recipe: Recipe, splits: Splits, test: ImageSet, *, seed: int, progress: Progress | None) -> Options:
    """Return the options under which a run is certified on some of its test images."""
    return Options(
        seed=seed,
        ids=test.ids,
        defense=f"{recipe.model.defense}/{recipe.model.preset}",
        dataset=splits.spec.name,
        weights_sha256=recipe.sha256,
        notes=splits.notes,
        progress=progress,
    )


def _smoothing_of(given: object) -> Smoothing | None:
    """Return how to smooth; raise ValueError for anything but that, a number or None."""
    if given is None or isinstance(given, Smoothing):
        return given
    sigma = real_number(given)
    if sigma is None:
        raise ValueError(
            f"smoothing is {shown(given)}, expected a standard deviation, such as 0.25, or memory_defense.Smoothing"
        )
    return Smoothing(sigma=sigma)


def method_of(
    defense: Defense, model: object, smoothing: Smoothing | None, radii: list[float], options: Options
) -> Method:
    """Return how to certify: by smoothing, or by what the model publishes."""
    if smoothing is not None:
        both = {one for radius in radii for one in (radius, radius / 2)}  # the gate's too
        wanted = () if 0 in both else tuple(sorted(both))  # at radius 0 whatever is proven counts
        return BySmoothing(defense, smoothing, options.seed, wanted)
    assert isinstance(model, Certifying)
    return ByItself(model, tuple(radii))


def certified_record(
    defense: Defense,
    images: Pictures,
    labels: Labels,
    method: Method,
    radii: list[float],
    options: Options,
    place: Path | None,
    *,
    smoothing: Smoothing | None,
) -> Record:
    """Certify, and return the record; write it to `place` with the file of every image beside it."""
    recipe = f"certified by {method.name}"
    if smoothing is not None:
        recipe += f", sigma {smoothing.sigma:g}, n {smoothing.samples:,}, alpha {smoothing.alpha:g}"
        recipe += f", {smoothing.looks} looks" if smoothing.looks > 1 else ""
        recipe += ", answers in bfloat16" if smoothing.bfloat16 else ""
    state = None if place is None else proofs_state_path(place)
    if place is not None:
        check_place(place)
        check_file(beside(place, CERTIFICATES))
        if current().leads:
            tell_replaced(place, _claim(recipe, len(images), options), options.progress)
    proofs = certify_all(defense, images, labels, method, options, state_file=state)
    base = accuracy(proofs.clean).accuracy
    notes = [f"without a certificate {100 * base:.1f} % of the images are right"]
    if smoothing is not None and radii and max(radii) > smoothing.largest_radius:
        most = smoothing.largest_radius
        notes.append(
            f"{smoothing.samples:,} noisy copies can certify no more than {most:.3f}, whatever the answers"
        )
    checksum, leads = "", current().leads
    if place is not None and leads:
        metadata = {"method": method.name, "norm": method.norm, "terms": method.terms}
        checksum = write_tensors(beside(place, CERTIFICATES), proofs.tensors(), metadata)
    record = Record(
        defense=options.defense,
        recipe=recipe,
        dataset=options.dataset,
        images=len(images),
        clean=accuracy(proofs.guesses == proofs.labels),
        attacks=(),
        worst_case=(),
        certified=certified_results(proofs, method, radii, smoothing),
        certificates=None if place is None else beside(place, CERTIFICATES).name,
        certificates_sha256=checksum,
        notes=(*options.notes, *notes),
        audit=() if smoothing is None else sampling_lines(smoothing, radii, images),
        provenance=provenance(options.seed, images.device, options.weights_sha256),
    )
    if place is not None and state is not None and leads:
        record.write(place)
        discard(state)
    return record


def certified_results(
    proofs: Proofs, method: Method, radii: list[float], smoothing: Smoothing | None
) -> tuple[CertifiedResult, ...]:
    """Return each radius's entry, with what the gate for it is worth."""
    drawn = {}
    if smoothing is not None:
        drawn = {"n": smoothing.samples, "alpha": smoothing.alpha, "sigma": smoothing.sigma}
        drawn |= {"bfloat16": smoothing.bfloat16, "looks": smoothing.looks}
        drawn["mean_copies"] = round(float(proofs.asked.double().mean()), 1)
    seconds, found = round(proofs.seconds, 1), Certificates(proofs.answers, proofs.radii)
    results = (
        certified_result(proofs.right, found, one, norm=method.norm, method=method.name, seconds=seconds)
        for one in radii
    )
    return tuple(one.model_copy(update=drawn) for one in results)


def _claim(recipe: str, images: int, options: Options) -> Claim:
    return Claim(
        defense=options.defense,
        recipe=recipe,
        dataset=options.dataset,
        images=images,
        seed=options.seed,
        weights_sha256=options.weights_sha256,
        balls=(),
    )
