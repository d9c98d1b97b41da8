"""A program for torchrun: evaluates a net by two ranks, which is stopped at a step, or whose code is mended.

Usage: two_ranks.py STATE CODE STOP; CODE is ``same``, or ``some``, which answers a single image otherwise, one of
the second rank's. STOP is the step at which it is stopped, 0 for none. Each rank says how it
ended.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor

from faults.helpers_faults import some_images
from faults.helpers_files import COUNT, Coded, Stops, labels_of
from memory_defense.attacks import Pgd
from memory_defense.defenses.undefended import Undefended
from memory_defense.evaluation.cases import Case
from memory_defense.evaluation.options import Options
from memory_defense.evaluation.robustness import evaluate
from memory_defense.threat import Linf

THEIRS = 5
"""An image of the second of two ranks."""


def one_otherwise(images: Tensor) -> Tensor:
    return torch.where((images == some_images(COUNT)[THEIRS]).flatten(1).all(1)[:, None, None, None], 0.3, images)


CODE = {"same": Coded(), "some": Coded(one_otherwise)}


def main() -> None:
    state, code, stop = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    rank, progress = torch.distributed.get_rank(), Stops(stop or None)
    cases = [
        Case(name=f"pgd-{steps}", attack=Pgd(steps=steps), knowledge="end-to-end", ball=Linf(0.02))
        for steps in (2, 3, 4)
    ]
    options = Options(chunk=4, progress=progress)
    said = ""
    try:
        evaluate(Undefended(CODE[code]), some_images(COUNT), labels_of(Coded()), cases, options, state_file=state)
    except KeyboardInterrupt:
        said = "stopped"
    except ValueError as error:
        said = str(error)
    sys.stdout.write(f"RANK {rank}: {' / '.join([*progress.notes, said])}\n")
    sys.stdout.flush()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
