"""What two ranks send each other: ``python rank_bytes.py FOLDER RANK`` counts it for images of two sizes."""

from __future__ import annotations

import json
import sys
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

import memory_defense
from memory_defense import Options
from memory_defense.evaluation.pixels import Pixels

folder, rank = Path(sys.argv[1]), int(sys.argv[2])
COUNT, SIZES = 24, (16, 96)
sent: Counter[str] = Counter()


def counted(name: str) -> None:
    """Count the bytes that this rank hands to a collective."""
    call = getattr(dist, name)

    def watched(*given: Any, **options: Any) -> Any:
        own = given[1] if name == "all_gather" else given[0]
        sent["bytes"] += own.numel() * own.element_size() if name != "broadcast" or rank == 0 else 0
        return call(*given, **options)

    setattr(dist, name, watched)


class Coarse(nn.Module):
    """A linear classifier of 8 x 8 means, so that images of every size are alike to it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.layers = nn.Sequential(nn.AdaptiveAvgPool2d(8), nn.Flatten(), nn.Linear(3 * 64, 4))

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)


def levels(size: int) -> Tensor:
    coarse = torch.rand(COUNT, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return (nn.functional.interpolate(coarse, size=size) * 255).round().byte()


def evaluated(size: int, out: Path | None, *, floats: bool = False, alone: bool = False) -> dict[str, object]:
    sent.clear()
    pixels, model = Pixels.of(levels(size)), Coarse().eval()
    labels = model(pixels[:]).argmax(1)
    record = memory_defense.evaluate(
        model,
        pixels[:] if floats else pixels,
        labels,
        epsilon=[0.02, 0.06],
        attacks="pgd,apgd",
        out=out,
        options=Options(alone=alone),
    )
    worst = [one.model_dump(mode="json") for one in record.worst_case]
    return {"sent": sent["bytes"], "worst": worst, "sha256": record.per_image_sha256, "audit": len(record.audit)}


def main() -> None:
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meeting",
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=60),
    )
    for name in ("all_gather", "all_reduce", "broadcast"):
        counted(name)
    found: dict[str, object] = {}
    for size in SIZES:
        found[f"{size} kept"] = evaluated(size, folder / f"r{size}.json")
        found[f"{size} nameless"] = evaluated(size, None)
        if rank == 0:
            found[f"{size} alone"] = evaluated(size, folder / f"alone{size}.json", alone=True)
    if rank == 0:
        found["floats"] = evaluated(SIZES[0], folder / "floats.json", floats=True, alone=True)
    (folder / f"rank{rank}.json").write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
