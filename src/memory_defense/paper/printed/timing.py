"""The timing paragraph as a table beside the paper's two numbers."""

from __future__ import annotations

from pathlib import Path

from memory_defense.paper.printed.measured import Count, Measured, MeasuredPart, Size
from memory_defense.reporting.text import plain_markdown
from memory_defense.reporting.wording import MISSING

PUBLISHED_BATCH = 10
PUBLISHED_DEVICE = "NVIDIA GeForce RTX 2080 Ti"
PUBLISHED_SECONDS = {"without-memory": 0.00171196, "with-memory": 0.00619208}
"""Published seconds for "an average of 10 images", by the key of `Latency`."""


class Latency(MeasuredPart):
    """Time of one system for one batch."""

    key: str
    title: str
    batch: Count
    runs: Count
    seconds: Size
    """Median seconds for the whole batch."""
    fastest: Size
    """Seconds of the fastest run, which other processes disturb least."""
    ratio: Size
    """Median, run by run, over the autoencoder without memory in the same round."""


class Timing(Measured):
    """Cost of the memory and of the selector (the paper's section 4)."""

    threads: Count
    latencies: tuple[Latency, ...]


def write_timing(result: Timing, directory: Path) -> list[Path]:
    """Write timing.json and timing.md into a directory; return their paths."""
    return result.write_with(directory / "timing.json", md=timing_text(result))


def timing_text(result: Timing) -> str:
    """Return the table and what it means, as Markdown."""
    head = (
        "system",
        "batch",
        "median ms",
        "fastest ms",
        "ms for each image",
        "times without memory",
        "published ms",
    )
    rows = [
        (
            one.title,
            str(one.batch),
            f"{1e3 * one.seconds:.3f}",
            f"{1e3 * one.fastest:.3f}",
            f"{1e3 * one.fastest / one.batch:.3f}",
            f"{one.ratio:.2f}",
            _published(one),
        )
        for one in result.latencies
    ]
    published = PUBLISHED_SECONDS["with-memory"] / PUBLISHED_SECONDS["without-memory"]
    runs = sorted({one.runs for one in result.latencies})
    counted = str(runs[0]) if len(runs) == 1 else f"{runs[0]} to {runs[-1]}"
    return "\n".join(
        [
            f"# What the memory costs, {result.dataset}, at the scale {result.scale!r}",
            "",
            *plain_markdown(head, rows),
            "",
            f"Medians of {counted} runs after a warm-up, forward passes without gradients, on {_device(result)}. "
            "All systems take turns; the ratio is the median of the rounds' own ratios. An image: of the fastest "
            "run, which other processes disturb least; where the two lie far apart, the machine was busy.",
            "",
            f"Published: {PUBLISHED_SECONDS['without-memory']:.5f} s without and "
            f"{PUBLISHED_SECONDS['with-memory']:.5f} s with memory for 10 images on an {PUBLISHED_DEVICE}, "
            f"{published:.1f} times as much. Another device, so only the ratio compares. The paper does not say "
            "whether its numbers hold the selector, which is a ResNet-50 there; ours are listed apart.",
            "",
        ]
    )


def _published(one: Latency) -> str:
    if one.batch != PUBLISHED_BATCH or one.key not in PUBLISHED_SECONDS:
        return MISSING
    return f"{1e3 * PUBLISHED_SECONDS[one.key]:.3f}"


def _device(result: Timing) -> str:
    return f"{result.provenance.device}, PyTorch {result.provenance.torch}"
