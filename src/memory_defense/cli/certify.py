"""``memdef certify``: what is proven, for a run or for any classifier."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from memory_defense.cli.arguments import (
    Device,
    Name,
    OwnArguments,
    RandomWeights,
    Seed,
    Sharing,
    Target,
    Threads,
    check_run_images,
    radius,
    with_options,
)
from memory_defense.cli.machine import Machine, joined
from memory_defense.zoo import is_entry, located

if TYPE_CHECKING:
    import torch
    from torch import nn

    from memory_defense.certificates.smoothing import Smoothing
    from memory_defense.contracts import Progress
    from memory_defense.data.images import ImageSet
    from memory_defense.evaluation.options import Options

PLACE = "certificates.json"


@dataclass(frozen=True, kw_only=True)
class CertifyArguments(OwnArguments):
    """Every argument and option, as typed by the user."""

    target: Target
    radius: Annotated[
        list[str],
        typer.Option(
            help="Radii, such as 0.25 or 8/255; may be repeated. In L2 with --sigma, in L-inf with --bounds."
        ),
    ]
    sigma: Annotated[
        float | None,
        typer.Option(help="Smooth the classifier with normal noise of this standard deviation, in [0, 1] units."),
    ] = None
    bounds: Annotated[
        str | None,
        typer.Option(help="Prove by interval bounds, L-inf: ibp, or crown-ibp, which is tighter and slower."),
    ] = None
    samples: Annotated[
        int | None,
        typer.Option(min=1, help="With --sigma: noisy copies for bounding the probability; 100,000 if left out."),
    ] = None
    selection: Annotated[
        int | None, typer.Option(min=1, help="With --sigma: noisy copies for choosing the class; 100 if left out.")
    ] = None
    alpha: Annotated[
        float | None, typer.Option(help="With --sigma: probability that a certificate is wrong; 0.001 if left out.")
    ] = None
    bfloat16: Annotated[
        bool,
        typer.Option(
            "--bfloat16",
            help="With --sigma: the classifier answers in bfloat16, and the certificate holds for these answers. "
            "Faster on processors with bfloat16 instructions.",
        ),
    ] = False
    looks: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=10,
            help="With --sigma: count this often, and leave an image alone once every radius is proven or out of "
            "reach; each early count costs a twentieth of alpha. 1 if left out: one count of all copies.",
        ),
    ] = None
    images: Annotated[int | None, typer.Option(min=1, help="Number of test images; all if left out.")] = None
    name: Name = None
    random_weights: RandomWeights = False
    seed: Seed = 0
    device: Device = "cpu"
    threads: Threads = None
    processes: Sharing = 1
    out: Annotated[
        Path | None,
        typer.Option(
            help="File of the record; if left out, certificates.json in the run, or in the current directory."
        ),
    ] = None

    def counting(self) -> dict[str, float | bool]:
        """Return what was said of the noisy copies; what was not is left to `Smoothing`."""
        said = {"samples": self.samples, "selection": self.selection, "alpha": self.alpha, "looks": self.looks}
        said["bfloat16"] = self.bfloat16 or None
        return {name: value for name, value in said.items() if value is not None}

    def place(self) -> Path:
        """Return where the record goes."""
        from memory_defense.cli.evaluate_checks import is_classifier

        if self.out is not None:
            return self.out
        return Path(PLACE) if is_classifier(self.target) else Path(self.target) / PLACE


@with_options(CertifyArguments)
def certify(options: CertifyArguments) -> None:
    """Prove for how many images no change within the radius alters the right answer, and write the record.

    After a stop, the same command continues.
    """
    named = options.target
    if is_entry(named):  # its directory is not written to
        options = replace(options, target=str(located(options.target)), out=options.out or Path(PLACE))
    machine = Machine(device=options.device, threads=options.threads, processes=options.processes)
    _check(options)
    device = machine.ready()
    machine.launch()
    with joined(device) as speaks:
        _certify(options, named, device, speaks=speaks)


def _check(options: CertifyArguments) -> None:
    """Raise ValueError for options that exclude each other, and for values out of range, before torch is loaded."""
    from memory_defense.cli.evaluate_checks import is_classifier
    from memory_defense.cli.own_options import OwnOptions
    from memory_defense.evaluation.place import check_place
    from memory_defense.run_directory import RunDirectory
    from memory_defense.systems.doors import door_of, path_of

    _check_method(options)
    check_place(options.place(), {"the classifier": path_of(options.target), "--weights": options.weights})
    if not is_classifier(options.target):
        OwnOptions.of(options).refuse()
        manifest = RunDirectory(Path(options.target)).read_finished()
        check_run_images(manifest, options.data, options.data_dir)
        return
    OwnOptions.of(options).check()
    if door_of(options.target) != "export" and options.sigma is None and options.bounds is None:
        raise ValueError("your classifier proves nothing by itself; give --sigma to smooth it, such as 0.25")


def _check_method(options: CertifyArguments) -> None:
    """Raise ValueError for radii, and for options of a method, that are out of range or exclude each other."""
    from memory_defense.names import check_name

    for text in options.radius:
        radius(text, "l2")
    if options.bounds is not None:
        check_name(options.bounds, ("ibp", "crown-ibp"), "method of bounds")
        if options.sigma is not None:
            raise ValueError("--bounds: not together with --sigma; intervals and noise are two ways to certify")
    if options.sigma is not None and not options.sigma > 0:
        raise ValueError(f"--sigma is {options.sigma}, but noise has a standard deviation above 0; give 0.25, say")
    if options.sigma is None and (given := options.counting()):
        raise ValueError(
            f"{', '.join(f'--{name}' for name in given)}: only with --sigma, whose noisy copies they are about"
        )
    if options.alpha is not None and not 0 < options.alpha < 1:
        raise ValueError(f"--alpha is {options.alpha}, but a probability of error is in (0, 1); give 0.001, say")


def _certify(options: CertifyArguments, named: str, device: torch.device, *, speaks: bool) -> None:
    from memory_defense.certificates.smoothing import Smoothing
    from memory_defense.cli.evaluate_checks import is_classifier
    from memory_defense.cli.progress import shown
    from memory_defense.cli.shared import print_tables
    from memory_defense.contracts import Certifying
    from memory_defense.defenses.interval_proof import proving
    from memory_defense.evaluation.pixels import Pixels
    from memory_defense.reporting import Section
    from memory_defense.workflows.certify import certify as certify_model

    smoothing: Smoothing | None = None
    if options.sigma is not None:
        smoothing = Smoothing(sigma=options.sigma, **cast("dict[str, Any]", options.counting()))
    with shown(silent=not speaks) as progress:
        find = _own if is_classifier(options.target) else _run
        model, images, chosen = find(options, device, progress)
        if options.bounds is not None:
            method = "ibp" if options.bounds == "ibp" else "crown-ibp"
            model = proving(model, radii=[radius(text, "linf") for text in options.radius], method=method)
        elif smoothing is None and not isinstance(model, Certifying):
            raise ValueError(
                f"{named} proves nothing by itself; give --sigma to smooth it, such as 0.25, which "
                "certifies any classifier in L2"
            )
        record = certify_model(
            model,
            Pixels.of(images).to(device),
            images.labels,
            radii=[radius(text, "l2") for text in options.radius],
            smoothing=smoothing,
            out=options.place(),
            options=chosen,
        )
    if speaks:
        print_tables([Section(options.name or named, record, record_path=options.place())])
        typer.echo(f"record: {options.place()}")


def _own(
    options: CertifyArguments, device: torch.device, progress: Progress
) -> tuple[nn.Module, ImageSet, Options]:
    from memory_defense.cli.own_options import OwnOptions
    from memory_defense.evaluation.options import Options

    own = OwnOptions.of(options).load(device, progress, images=options.images)
    called = Options.defense if options.name is None else options.name
    return own.model, own.images, own.named(Options(defense=called, seed=options.seed, progress=progress))


def _run(
    options: CertifyArguments, device: torch.device, progress: Progress
) -> tuple[nn.Module, ImageSet, Options]:
    from memory_defense.cli.run_splits import run_splits
    from memory_defense.run_directory import RunDirectory
    from memory_defense.systems.load import load_defense
    from memory_defense.workflows.certify import options_for
    from memory_defense.workflows.run_recipe import recipe_of

    run = RunDirectory(Path(options.target))
    recipe = recipe_of(run)
    splits = run_splits(
        run,
        source=options.data,
        device=device,
        data_dir=options.data_dir,
        offline=options.offline,
        progress=progress,
    )
    test = splits.test.first(min(options.images or len(splits.test), len(splits.test)))
    chosen = options_for(recipe, splits, test, seed=options.seed, progress=progress)
    if options.name is not None:
        chosen = replace(chosen, defense=options.name)
    return load_defense(run.path).to(device), test, chosen
