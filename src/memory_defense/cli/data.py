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
) -> None:
    """Find or fetch a dataset, check its hash, and say what it holds and where it came from."""
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


def recipes() -> None:
    """List what can be trained."""
    from memory_defense.recipes.registry import RECIPES

    width = max(map(len, RECIPES)) + 2
    for one in RECIPES.values():
        typer.echo(f"{one.name:<{width}}{one.summary}")
