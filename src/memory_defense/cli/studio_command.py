"""The studio's command: says where the page is and serves it until Ctrl-C."""

from __future__ import annotations

import contextlib
from pathlib import Path

from rich.console import Console

from memory_defense.cli.arguments import check_data_dir
from memory_defense.names import check_seconds


def run_studio(
    runs: Path, data_dir: Path | None, *, host: str, port: int, seconds: float, threads: int | None
) -> None:
    """Serve the studio; raise ValueError when the extra is not installed or there are no runs."""
    try:
        import fastapi
        import uvicorn
    except ImportError as error:
        raise ValueError(
            f"the studio needs {error.name}, which is not installed; pip install 'memory-defense[studio]'"
        ) from error
    del fastapi, uvicorn
    if not runs.is_dir():
        raise ValueError(f"{runs} is no directory; give one that holds runs, or make one with 'memdef demo'")
    check_seconds(seconds)
    check_data_dir(data_dir)

    import torch

    from memory_defense.studio.server import StudioOptions, serve

    if threads is not None:
        torch.set_num_threads(threads)
    settings = StudioOptions(runs=runs, host=host, port=port, data_dir=data_dir, seconds=seconds)
    console = Console()
    if not settings.local_only:
        console.print("the studio has no login: whoever reaches this address can use it", highlight=False)
    with contextlib.suppress(KeyboardInterrupt):
        serve(
            settings,
            lambda address: console.print(f"studio: {address} (Ctrl-C stops it)", highlight=False, soft_wrap=True),
        )
