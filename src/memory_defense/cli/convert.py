"""``memdef convert``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def convert(
    source: Annotated[Path, typer.Argument(help="A checkpoint of torch: .pth, .pt, .bin or .ckpt.", metavar="IN")],
    out: Annotated[Path, typer.Argument(help="The .safetensors file to write.", metavar="OUT.safetensors")],
    keep_names: Annotated[bool, typer.Option("--keep-names", help="Keep the prefixes of names.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
) -> None:
    """Copy the weights of a torch checkpoint to a .safetensors file; no code of the checkpoint is run.

    Finds the state dict in the checkpoint. Removes the prefixes module. and _orig_mod. if every name has them.
    Leaves out entries that are not tensors. Prints each of these changes.
    """
    from memory_defense.files import check_tensor_file
    from memory_defense.outputs import check_file

    check_tensor_file(source)
    if out.suffix != ".safetensors":
        raise ValueError(f"{out} should end in .safetensors; write {out.with_suffix('.safetensors')}")
    if out.exists() and not force:
        raise ValueError(f"{out} already exists; give --force to replace it, or another name")
    check_file(out, example="weights.safetensors")

    from memory_defense.systems.convert import convert as convert_weights

    done = convert_weights(source, out, keep=keep_names)
    for note in done.notes:
        typer.echo(f"note: {note}")
    numbers = sum(one.numel() for one in done.tensors.values())
    typer.echo(f"converted: {out}, {len(done.tensors):,} tensors of {numbers:,} numbers")
