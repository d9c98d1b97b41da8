"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

DataDir = Annotated[
    Path | None,
    typer.Option(envvar="MEMDEF_DATA", help="Directory with the dataset's files; else they are looked for."),
]
Offline = Annotated[bool, typer.Option("--offline", help="Use only what is on this machine already.")]
Seed = Annotated[int, typer.Option(min=0, help="Of every random draw.")]
Device = Annotated[str, typer.Option(help="cpu, cuda or cuda:1.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Processor threads; torch decides if left out.")]
