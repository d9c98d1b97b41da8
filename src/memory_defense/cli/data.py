"""``memdef data`` and ``memdef recipes``."""

from __future__ import annotations

from typing import Annotated

import typer

from memory_defense.cli.arguments import DataDir, Offline, check_data_dir
from memory_defense.names import check_name


def data(
    name: Annotated[str, typer.Argument(help="fashion-mnist or cifar10.")] = "fashion-mnist",
    data_dir: DataDir = None,
    offline: Offline = False,
    decoded: Annotated[
        bool, typer.Option("--decoded", help="List the cached decoded images of image folders.")
    ] = False,
    forget_decoded: Annotated[
        bool,
        typer.Option(
            "--forget-decoded", help="Remove the cached decoded images; they are decoded again when needed."
        ),
    ] = False,
) -> None:
    """Find or download a dataset, check its hash, and print what it contains."""
    if decoded or forget_decoded:
        _decoded(forget=forget_decoded)
        return
    from memory_defense.data.spec import DATASETS, dataset_spec

    check_name(name, DATASETS, "dataset")
    check_data_dir(data_dir)

    from memory_defense.cli.progress import shown
    from memory_defense.data.images import load_dataset

    with shown() as progress:
        splits = load_dataset(name, data_dir=data_dir, offline=offline, may_update=True, progress=progress)
    spec = dataset_spec(name)
    facts = {
        "dataset": name,
        "image": f"{spec.channels} x {spec.size} x {spec.size}",
        "classes": ", ".join(spec.classes),
        "training images": len(splits.train),
        "held-out images": len(splits.held_out),
        "test images": len(splits.test),
        "sha256": spec.sha256,
    }
    for key, value in facts.items():
        typer.echo(f"{key:>16}  {value}")


def _decoded(*, forget: bool) -> None:
    """List the files of decoded images, and remove them where that is wanted."""
    from memory_defense.data.decoded import contents, folder
    from memory_defense.data.decoded import forget as remove_all

    found = contents()
    for path, of, size in found:
        typer.echo(f"{size:>16,} bytes  {path.name}  {of or 'damaged: made again when it is needed'}")
    typer.echo(f"{sum(size for _, _, size in found):>16,} bytes in {folder()}")
    if forget:
        typer.echo(f"{remove_all():>16,} bytes removed")


def recipes() -> None:
    """List what can be trained."""
    from memory_defense.recipes.registry import RECIPES

    width = max(map(len, RECIPES)) + 2
    for one in RECIPES.values():
        typer.echo(f"{one.name:<{width}}{one.summary}")
