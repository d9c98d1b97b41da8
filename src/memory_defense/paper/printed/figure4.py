"""Figure 4 as two charts, a table and the file that both come from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from memory_defense.evaluation.record import Accuracy, Fraction
from memory_defense.paper.printed.measured import Count, Measured, MeasuredPart, Size
from memory_defense.reporting.svg import as_file, bare, colour, drawn
from memory_defense.reporting.text import plain_markdown
from memory_defense.reporting.wording import epsilon_text, interval, knowledge_label, percent

_DASHES = ("-", (0, (4, 2)), (0, (1, 1.2)))
_MARKERS = ("o", "s", "^")


class AttackedError(MeasuredPart):
    """Reconstruction errors of attacked images."""

    knowledge: str
    epsilon: Size
    percentile_99: Size
    median: Size
    auroc: Fraction
    """Area under the ROC curve of the error, attacked against benign images; 0.5 is chance."""
    right: Accuracy


class MemorySize(MeasuredPart):
    """One memory size."""

    items: Count
    percentile_99: Size
    """99th percentile of the errors of benign images."""
    median: Size
    right: Accuracy
    attacked: tuple[AttackedError, ...]


class Figure4(Measured):
    """Reconstruction errors by memory size (the paper's Figure 4)."""

    images: Count
    sizes: tuple[MemorySize, ...]


def write_figure4(result: Figure4, directory: Path) -> list[Path]:
    """Write figure4.json, figure4.svg and figure4.md into a directory; return their paths."""
    return result.write_with(
        directory / "figure4.json", svg=as_file(figure4_svg(result), dark=True), md=figure4_text(result)
    )


def _attacks(result: Figure4) -> list[tuple[str, float]]:
    """Return knowledge and epsilon of every attack, in the order of the result."""
    return [(one.knowledge, one.epsilon) for one in result.sizes[0].attacked]


def _of(attacked: Sequence[AttackedError], knowledge: str, epsilon: float) -> AttackedError:
    (found,) = (one for one in attacked if (one.knowledge, one.epsilon) == (knowledge, epsilon))
    return found


def figure4_text(result: Figure4) -> str:
    """Return the figure's table and what it means, as Markdown."""
    head = ("memory items", "images", "99th percentile", "median", "AUROC", "right", "95 % interval")
    rows: list[tuple[str, ...]] = []
    for size in result.sizes:
        rows.append(_line(size, "benign", size, ""))
        for one in size.attacked:
            name = f"{knowledge_label(one.knowledge)}, {epsilon_text(one.epsilon)}"
            rows.append(_line(size, name, one, f"{one.auroc:.3f}"))
    return "\n".join(
        [
            f"# Figure 4, {result.dataset}, at the scale {result.scale!r}",
            "",
            "![Reconstruction error by memory size](figure4.svg)",
            "",
            *plain_markdown(head, rows, numeric_from=2),
            "",
            f"Errors are mean squared differences of pixels in [0, 1], of the first {result.images:,} test images, "
            "between the image handed in and its reconstruction. Attacked: PGD as the paper runs it (40 steps), "
            "with the slot frozen as in the paper, and end to end. AUROC: how well the error tells attacked images "
            "from benign ones; 0.5 tells nothing. Right: share of images that the defense answers right.",
            "",
            "The paper's figure has no readable numbers, so none stand beside ours. Its code compares the "
            "reconstruction of the attacked image with the clean image, which a detector does not have. All sizes "
            "share one selector and are trained alike.",
            "",
        ]
    )


def _line(size: MemorySize, images: str, errors: MemorySize | AttackedError, auroc: str) -> tuple[str, ...]:
    errors_text = (f"{errors.percentile_99:.4f}", f"{errors.median:.4f}", auroc)
    return (str(size.items), images, *errors_text, percent(errors.right.accuracy), interval(errors.right))


def figure4_svg(result: Figure4, prefix: str = "figure4") -> str:
    """Return two charts by memory size: the 99th percentiles, and how well the error tells attacked images."""

    def paint(figure: Figure) -> None:
        left, right = (figure.add_axes(place) for place in ((0.05, 0.14, 0.3, 0.72), (0.415, 0.14, 0.3, 0.72)))
        _frame(left, result, "99th percentile of the error")
        _frame(right, result, "AUROC, benign against attacked")
        across = range(len(result.sizes))
        left.plot(
            across, [size.percentile_99 for size in result.sizes], color=colour("ink"), linewidth=2.4, marker="D"
        )
        entries = [("benign", "ink", "D", "-")]
        epsilons = sorted({epsilon for _, epsilon in _attacks(result)})
        for knowledge, epsilon in _attacks(result):
            place = epsilons.index(epsilon)
            found = [_of(size.attacked, knowledge, epsilon) for size in result.sizes]
            for axes, values in ((left, [f.percentile_99 for f in found]), (right, [f.auroc for f in found])):
                axes.plot(
                    across,
                    values,
                    color=colour(knowledge),
                    linewidth=1.6,
                    linestyle=_DASHES[place % 3],
                    marker=_MARKERS[place % 3],
                    markersize=4.5,
                    clip_on=False,
                )
            label = f"{knowledge_label(knowledge)}, {epsilon_text(epsilon)}"
            entries.append((label, knowledge, _MARKERS[place % 3], _DASHES[place % 3]))  # pyright: ignore[reportArgumentType]
        left.set_ylim(bottom=0)
        right.set_ylim(0, 1)
        right.axhline(0.5, color=colour("muted"), linewidth=0.8)
        right.text(0, 0.45, "0.5 tells nothing", color=colour("muted"), va="top")
        _legend(figure, entries)

    ends = result.sizes[0], result.sizes[-1]
    return drawn(
        paint,
        size=(9.4, 3.4),
        text=9,
        prefix=prefix,
        short=True,
        title="Reconstruction error by memory size",
        description="99th percentile on benign images: "
        + ", ".join(f"{size.percentile_99:.4f} with {size.items} items" for size in ends)
        + ".",
    )


def _frame(axes: Axes, result: Figure4, title: str) -> None:
    bare(axes, grid="y")
    axes.set_xticks(range(len(result.sizes)), [str(size.items) for size in result.sizes])
    axes.set_xlabel("memory items", color=colour("muted"))
    axes.set_title(title, loc="left", color=colour("ink"), fontsize=9.5, pad=8)


def _legend(figure: Figure, entries: Sequence[tuple[str, str, str, object]]) -> None:
    axes = figure.add_axes((0.745, 0.14, 0.25, 0.72))
    bare(axes, ticks=False)
    axes.set_xlim(0, 10)
    axes.set_ylim(-len(entries) - 0.5, 0.5)
    for number, (label, name, marker, dashes) in enumerate(entries):
        axes.plot(
            [0, 0.9, 1.8],
            [-number] * 3,
            color=colour(name),
            linestyle=dashes,  # pyright: ignore[reportArgumentType]
            linewidth=2.4 if name == "ink" else 1.6,
            marker=marker,
            markevery=[1],
            markersize=4.5,
            clip_on=False,
        )
        axes.text(2.3, -number, label, color=colour("ink"), va="center")
