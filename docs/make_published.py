"""Writes src/memory_defense/evaluation/published.json from a clone of RobustBench's repository.

``python docs/make_published.py CLONE`` reads the facts of the chosen models (numbers, architecture, venue, link) at
the clone's HEAD; no text of theirs is taken. Entries of other sources are kept as they are.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from memory_defense.files import write_text

PAGE = Path(__file__).parents[1] / "src/memory_defense/evaluation/published.json"
REPOSITORY = "https://github.com/RobustBench/robustbench"
BALLS = {"Linf": "linf", "L2": "l2"}
IMAGES = {"cifar10": 10_000, "cifar100": 10_000, "imagenet": 5_000}
"""Test images that RobustBench attacks: README.md and robustbench/helper_files of its repository."""
CHOSEN: dict[str, str] = {
    "cifar10/Linf": """Bartoldson2024Adversarial_WRN-94-16 Amini2024MeanSparse_S-WRN-94-16 Wang2023Better_WRN-70-16
        Cui2023Decoupled_WRN-28-10 Carmon2019Unlabeled Gowal2021Improving_R18_ddpm_100m Chen2024Data_WRN_34_20
        Rade2021Helper_R18_extra Wu2020Adversarial Rice2020Overfitting Addepalli2022Efficient_RN18
        Engstrom2019Robustness Madry2018Towards Wong2020Fast Standard""",
    "cifar10/L2": """Wang2023Better_WRN-70-16 Wang2023Better_WRN-28-10 Rade2021Helper_R18_ddpm Gowal2020Uncovering
        Wu2020Adversarial Augustin2020Adversarial Engstrom2019Robustness Rice2020Overfitting Standard""",
    "cifar100/Linf": """Wang2023Better_WRN-70-16 Wang2023Better_WRN-28-10 Cui2023Decoupled_WRN-34-10
        Addepalli2022Efficient_WRN_34_10 Rade2021Helper_R18_ddpm Addepalli2022Efficient_RN18 Rice2020Overfitting""",
    "imagenet/Linf": """Xu2024MIMIR_Swin-L Liu2023Comprehensive_ConvNeXt-L Singh2023Revisiting_ConvNeXt-T-ConvStem
        Debenedetti2022Light_XCiT-S12 Salman2020Do_50_2 Salman2020Do_R50 Engstrom2019Robustness Wong2020Fast
        Salman2020Do_R18 Standard_R50""",
}


def git(clone: Path, *arguments: str) -> str:
    """Return what git says of the clone."""
    return subprocess.run(["git", "-C", str(clone), *arguments], check=True, capture_output=True, text=True).stdout


def entry(clone: Path, commit: str, date: str, board: str, name: str) -> dict[str, Any]:
    """Return the facts of one model."""
    path = f"model_info/{board}/{name}.json"
    told = json.loads(git(clone, "show", f"{commit}:{path}"))
    dataset, norm = board.split("/")
    external = told.get("external")
    above, _, below = told["eps"].partition("/")
    return {
        "dataset": dataset,
        "norm": BALLS[norm],
        "epsilon": float(above) / float(below or 1),
        "name": name,
        "architecture": told["architecture"],
        "clean": round(float(told["clean_acc"]) / 100, 6),
        "robust": round(float(external or told["autoattack_acc"]) / 100, 6),
        "by": "AutoAttack and others" if external else "AutoAttack",
        "images": IMAGES[dataset],
        "extra_data": bool(told["additional_data"]),
        "venue": " ".join(told["venue"].replace("<br>", " ").split()),
        "link": told["link"],
        "source": f"{REPOSITORY}/blob/{commit}/{path}",
        "date": date,
    }


def main(clone: Path) -> None:
    """Replace RobustBench's entries by those of the clone."""
    commit, date = git(clone, "log", "-1", "--format=%H %cs").split()
    kept = json.loads(PAGE.read_text())["entries"] if PAGE.is_file() else []
    others = [one for one in kept if not one["source"].startswith(REPOSITORY)]
    found = [entry(clone, commit, date, board, name) for board, names in CHOSEN.items() for name in names.split()]
    content = {"entries": [*found, *others]}
    lines = ",\n".join(json.dumps(one, allow_nan=False) for one in content["entries"])
    write_text(PAGE, f'{{"schema": 1, "entries": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main(Path(sys.argv[1]))
