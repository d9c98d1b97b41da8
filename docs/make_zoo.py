"""Ship a trained run with the package: ``python docs/make_zoo.py runs/demo fashion-mnist/demo``.

Copies the run to ``src/memory_defense/zoo/NAME`` with its weights rounded to half precision, evaluates these very
weights by the run's own plan, and writes a card. What is shipped is never trained further, so stages are left out.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch
import typer
from torch import nn

from memory_defense.checks import nearest
from memory_defense.cli.export import card_of
from memory_defense.cli.progress import shown
from memory_defense.data.images import load_dataset
from memory_defense.data.spec import DATASETS
from memory_defense.evaluation.options import Options
from memory_defense.evaluation.record import Record
from memory_defense.files import remove, write_text
from memory_defense.paper.half_weights import halved
from memory_defense.run_directory import CARD, RunDirectory
from memory_defense.systems.facts import facts_of
from memory_defense.systems.load import load_defense
from memory_defense.tensorfiles import read_tensors, write_tensors
from memory_defense.workflows.assess import assess
from memory_defense.workflows.run_recipe import recipe_of
from memory_defense.zoo import ROOT

LIMIT = 16 << 20
"""Most bytes of one file."""


def copied(source: RunDirectory, place: Path, *, plain: bool) -> RunDirectory:
    """Return a copy of a finished run with its weights in half precision; with `plain`, its plain net's too."""
    manifest = source.read_finished()
    source.verify(manifest)
    run = RunDirectory(place)
    for old, new in ((source.weights, run.weights), (source.undefended, run.undefended)):
        if old.is_file() and (plain or old != source.undefended):
            tensors, header = read_tensors(old)
            write_tensors(new, {name: halved(one) for name, one in tensors.items()}, header)
            if new.stat().st_size > LIMIT:
                raise ValueError(f"{new} has {new.stat().st_size:,} bytes, more than {LIMIT:,}")
    run.seal(manifest)
    return run


def main() -> None:
    """Copy, evaluate, describe."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("name", help="DATASET/NAME in the zoo")
    parser.add_argument("--data-dir", type=Path, default=None)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--images", type=int, default=None, help="attack so many, not as many as the plan says")
    parser.add_argument(
        "--without-undefended", action="store_true", help="leave out the plain net, from which attacks transfer"
    )
    chosen = parser.parse_args()
    dataset = chosen.name.partition("/")[0]
    if dataset not in DATASETS:
        raise nearest(dataset, DATASETS, "dataset")
    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    place = ROOT / chosen.name
    run = RunDirectory(place)
    if not run.manifest_path.is_file():
        run = copied(RunDirectory(chosen.run), place, plain=not chosen.without_undefended)
    defense: nn.Module = load_defense(run.path)
    with shown() as progress:
        splits = load_dataset(dataset, data_dir=chosen.data_dir, progress=progress)
        recipe = recipe_of(run)
        if chosen.images is not None:
            recipe = replace(recipe, evaluation=replace(recipe.evaluation, images=chosen.images))
        record = assess(recipe, run, defense, splits, options=Options(progress=progress))  # pyright: ignore
    record = record.model_copy(update={"per_image": None, "per_image_sha256": ""})
    record.write(run.record)
    remove(run.record.with_name("record.images.safetensors"))
    write_text(run.path / CARD, card_of(chosen.name, facts_of(run), Record.read(run.record)))
    size = sum(one.stat().st_size for one in run.path.iterdir()) / 1e6
    typer.echo(f"shipped: {run.path}, {size:.1f} MB")


if __name__ == "__main__":
    main()
