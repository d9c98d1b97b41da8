"""The logs of ranks that share the images of one evaluation: each writes its own, and all read one another's.

So no pixel travels between ranks. With a file to go on from, the logs lie beside it; without one they lie in a
temporary folder and have no names once every rank has opened them.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import torch

from memory_defense.evaluation.log import Log
from memory_defense.ranks import Ranks

_SHARED = "give all ranks the same out, in a folder that every one of them sees"


def beside(path: Path, own: Log, ranks: Ranks) -> list[Log]:
    """Return the logs of all ranks, this one's own among them.

    Parameters
    ----------
    path
        Where rank 0's would be if it were alone; `store.of_rank` names the others.
    own
        What this rank writes, all of it on the disk.
    ranks
        This process among others; all of them must ask.

    Raises
    ------
    ValueError
        On every rank, where one of them does not see another's file.
    """
    from memory_defense.evaluation.store import of_rank

    names = [of_rank(path, Ranks(rank, ranks.world)) for rank in range(ranks.world)]
    return _opened(names, own, ranks)


def nameless(ranks: Ranks) -> tuple[Log, list[Log]]:
    """Return a log for this rank to write, and those of all ranks; they are gone with the last process.

    Raises ValueError on every rank where they do not see one folder for temporary files.
    """
    folder = Path(ranks.lead(lambda: ({}, tempfile.mkdtemp(prefix="memory-defense-")))[1])
    fault = ""
    own = Log()
    try:
        if folder.is_dir():
            own = Log(folder / f"rank-{ranks.rank}")
        else:
            fault = f"rank {ranks.rank} does not see {folder}, where rank 0 keeps what it breaks; {_SHARED}"
        ranks.agree(fault)
        names = [folder / f"rank-{rank}" for rank in range(ranks.world)]
        return own, _opened(names, own, ranks)
    finally:
        if ranks.leads:
            shutil.rmtree(folder, ignore_errors=True)


def _opened(names: list[Path], own: Log, ranks: Ranks) -> list[Log]:
    sizes = [int(one["size"]) for one in ranks.gather({"size": torch.tensor(own.size)})]
    fault, found = "", list[Log]()
    for rank, (name, size) in enumerate(zip(names, sizes, strict=True)):
        try:
            one = own if rank == ranks.rank else Log(name, reading=True)
        except (OSError, ValueError):
            one = None
        if (one is None or one.size != size) and not fault:
            fault = f"rank {ranks.rank} does not see what rank {rank} writes to {name}; {_SHARED}"
        found.append(one or own)
    ranks.agree(fault)
    return found
