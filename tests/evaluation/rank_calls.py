"""What two ranks make of calls that do not go together: ``python rank_calls.py FOLDER RANK`` writes it to a file.

Each rank goes through the same list of situations; what came of one must not disturb the next.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import memory_defense
from memory_defense import Options, ranks

folder, rank = Path(sys.argv[1]), int(sys.argv[2])
IMAGES = torch.rand(12, 1, 6, 6, generator=torch.Generator().manual_seed(0))


class Small(nn.Module):
    """A linear classifier behind batch normalisation, whose buffers a wrapped model would send around."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.layers = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(36, 3))

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)


class Failing(Small):
    """Fails on the second rank, once an attack moves images."""

    def forward(self, images: Tensor) -> Tensor:
        known = (images[:, None] == IMAGES[None]).flatten(2).all(2).any(1)
        if rank == 1 and not known.all():
            raise KeyError("no such layer")
        return super().forward(images)


def evaluated(model: nn.Module, images: Tensor = IMAGES, **options: object) -> dict[str, object]:
    labels = Small().eval()(images).argmax(1)
    try:
        record = memory_defense.evaluate(
            model,
            images,
            labels,
            epsilon=0.1,
            attacks="pgd",
            options=Options(**options),  # pyright: ignore
        )
    except ValueError as error:
        return {"error": type(error).__name__, "said": str(error)}
    return {"images": record.images, "robust": record.worst_case[0].accuracy}


def main() -> None:
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meeting",
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=60),
    )
    logging.basicConfig(stream=sys.stdout, format="%(message)s")
    ranks.FIRST_WORD = ranks.EVERY_WORD = 0.2
    ranks.SHARE_WORD = 0.2
    found: dict[str, object] = {}
    if rank == 0:
        found["alone"] = evaluated(Small(), alone=True)
    found["together"] = evaluated(Small())
    found["other seeds"] = evaluated(Small(), seed=rank)
    found["other images"] = evaluated(Small(), IMAGES.flip(rank))
    found["one refuses"] = evaluated(Small(), IMAGES * (1 + rank))
    found["one fails"] = evaluated(Failing())
    found["wrapped"] = evaluated(DistributedDataParallel(Small()))
    found["again"] = evaluated(Small())
    (folder / f"rank{rank}.json").write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
