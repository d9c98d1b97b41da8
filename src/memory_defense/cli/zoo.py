"""``memdef zoo``."""

from __future__ import annotations

import typer

from memory_defense.zoo import PREFIX, ROOT, entries


def zoo() -> None:
    """List the trained defenses that come with the package, with their accuracy, clean and under attack."""
    from memory_defense.evaluation.record import Record
    from memory_defense.reporting.wording import epsilon_text, norm_label, percent
    from memory_defense.run_directory import RunDirectory

    names = entries()
    if not names:
        typer.echo("this installation has no trained defenses; train one with 'memdef demo'")
        return
    width = max(map(len, names)) + len(PREFIX) + 2
    for name in names:
        run = RunDirectory(ROOT / name)
        record = Record.read(run.record)
        found = [
            f"{percent(one.accuracy)} % within {norm_label(one.norm)} {epsilon_text(one.epsilon)}"
            for one in record.worst_case
            if one.accuracy is not None
        ]
        size = sum(one.stat().st_size for one in (run.weights, run.undefended) if one.is_file())
        typer.echo(f"{PREFIX + name:<{width}}{run.read()['recipe']}, {size / 1e6:.1f} MB")
        clean = f"of {record.images:,} test images, right when clean: {percent(record.clean.accuracy)} %"
        typer.echo(f"{'':<{width}}{clean}; under every attack tried: {', '.join(found)}")
    typer.echo(f"\nTo attack one: memdef evaluate {PREFIX}{names[0]} --attacks fast --images 100")
    typer.echo("To attack images on a web page: memdef studio")
