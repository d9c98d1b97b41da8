"""What the benchmarks share around the measuring: options, where the numbers come from, and two files.

``results/NAME.json`` holds everything; ``results/NAME.md`` is the table, printed as well.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from memory_defense.contracts import Images, Labels
from memory_defense.data.images import Splits, load_dataset
from memory_defense.evaluation.provenance import provenance
from memory_defense.machine import processor
from nets import DATASET, load_net
from peers import versions

RESULTS = Path(__file__).parent / "results"

Row = Mapping[str, Any]


def options(description: str | None, *, images: int, repetitions: int = 3) -> argparse.ArgumentParser:
    """Return a parser with the options that all comparisons have."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=images)
    parser.add_argument("--repetitions", type=int, default=repetitions)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS, help="directory of the two files")
    return parser


@dataclass(frozen=True)
class Subject:
    """A network, and images with their labels to attack it with."""

    name: str
    network: nn.Module
    images: Images
    labels: Labels

    @property
    def clean(self) -> float:
        """Return the share of these images that it gets right."""
        return float(_right(self.network, self.images, self.labels).double().mean())


def subject(name: str, splits: Splits, images: int, *, only_right: bool = False) -> Subject:
    """Return a network and the first test images, or the first that it gets right."""
    network = load_net(name, splits)
    pixels, labels = splits.test.floats(), splits.test.labels
    if only_right:
        rows = _right(network, pixels, labels).nonzero().squeeze(1)
        pixels, labels = pixels[rows], labels[rows]
    return Subject(name, network, pixels[:images].clone(), labels[:images].clone())


def splits() -> Splits:
    """Return Fashion-MNIST."""
    return load_dataset(DATASET)


def table(title: str, columns: Mapping[str, str], rows: Sequence[Row]) -> str:
    """Return a Markdown table; `columns` maps keys of the rows to headings, a missing key leaves its cell empty."""
    lines = [f"### {title}", "", "| " + " | ".join(columns.values()) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(_cell(row.get(key, "")) for key in columns) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def save(name: str, asked: argparse.Namespace, results: Mapping[str, Sequence[Row]], tables: Sequence[str]) -> None:
    """Write ``NAME.json`` and ``NAME.md``, and print the tables."""
    origin = provenance(asked.seed, torch.device("cpu"), "")
    document = {
        "benchmark": name,
        "version": origin.version,
        "git": revision(),
        "seed": asked.seed,
        "device": processor(),
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "peers": versions(),
        "options": {key: value for key, value in vars(asked).items() if key not in ("out", "kept")},
        "results": results,
    }
    text = "\n".join(tables)
    asked.out.mkdir(parents=True, exist_ok=True)
    (asked.out / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n")
    (asked.out / f"{name}.md").write_text(f"{text}\n{_footnote(document)}\n")
    print(text)


def _right(network: nn.Module, images: Images, labels: Labels) -> Tensor:
    with torch.no_grad():
        return torch.cat([network(part).argmax(1) for part in images.split(256)]) == labels


def revision() -> str:
    """Return the git revision; what an earlier benchmark has just written does not make it dirty."""
    git = ["git", "-C", str(RESULTS.parents[1])]
    changed = [*git, "status", "--porcelain", "--untracked-files=no", "--", ".", ":!benchmarks/results"]
    try:
        revision = _output([*git, "rev-parse", "--short=12", "HEAD"])
        return f"{revision}-dirty" if _output(changed) else revision
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def _output(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def _footnote(document: Mapping[str, Any]) -> str:
    peers = ", ".join(f"{name} {version}" for name, version in document["peers"].items())
    return (
        f"{document['device']}, {document['threads']} thread(s), torch {document['torch']}, revision "
        f"{document['git']}, seed {document['seed']}. Peers: {peers}."
    )
