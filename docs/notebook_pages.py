"""Runs notebooks and turns them into pages: ``python docs/notebook_pages.py FILE...`` writes their outputs anew.

A notebook here is plain Python in cells, without magics, so no kernel is needed to run it: cells share one
namespace; what is printed, the value of the last expression and the open figures are a cell's outputs, as in
Jupyter.
"""

from __future__ import annotations

import ast
import base64
import contextlib
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

DOTS = 72
"""Dots an inch of a figure: sharp enough for a page, in few bytes."""


def notebook_page(path: Path, told: Callable[[str], str] = str) -> tuple[str, dict[str, bytes]]:
    """Return a notebook as a page of Markdown, with its outputs, and the page's pictures by file name.

    Parameters
    ----------
    path
        The notebook.
    told
        What is done to the text of its Markdown cells, such as leading their links elsewhere.
    """
    parts: list[str] = []
    pictures: dict[str, bytes] = {}
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(told(text))
            continue
        parts.append(f"```python\n{text}\n```")
        for output in cell["outputs"]:
            data = output.get("data", {"text/plain": output.get("text", "")})
            if "image/png" in data:
                name = f"{path.stem}-{len(pictures) + 1}.png"
                pictures[name] = base64.b64decode(data["image/png"])
                parts.append(f"![Figure {len(pictures)} of this page]({name})")
            elif "text/html" in data:
                parts.append(f'<div class="output">{"".join(data["text/html"])}</div>')
            else:
                parts.append(f"```text\n{''.join(data['text/plain']).rstrip()}\n```")
    return "\n\n".join([*parts, ""]), pictures


def run(path: Path) -> dict[str, Any]:
    """Run a notebook's cells in order, put their outputs into the file, and return the names they leave behind.

    Raises whatever a cell raises, with the notebook and the cell's number in the traceback.
    """
    notebook = json.loads(path.read_text(encoding="utf-8"))
    scope: dict[str, Any] = {"__name__": "__main__"}
    number = 0
    _figures()  # of whoever drew before, which are not the notebook's
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            number += 1
            cell["execution_count"] = number
            cell["outputs"] = _outputs("".join(cell["source"]), scope, f"{path.name}, cell {number}", number)
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return scope


def _outputs(source: str, scope: dict[str, Any], name: str, number: int) -> list[dict[str, Any]]:
    """Run one cell and return its outputs, in the notebook format: printed text, the last value, figures."""
    body = ast.parse(source, name)
    last = body.body.pop() if body.body and isinstance(body.body[-1], ast.Expr) else None
    quiet = source.rstrip().endswith(";")
    printed, value = io.StringIO(), None
    with contextlib.redirect_stdout(printed):
        exec(compile(body, name, "exec", dont_inherit=True), scope)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), name, "eval", dont_inherit=True), scope)
    outputs: list[dict[str, Any]] = []
    if printed.getvalue():
        outputs.append({"name": "stdout", "output_type": "stream", "text": _lines(printed.getvalue())})
    if value is not None and not quiet:
        data = {"text/plain": _lines(repr(value))}
        if hasattr(value, "_repr_html_"):
            data["text/html"] = _lines(value._repr_html_())
        outputs.append({"data": data, "execution_count": number, "metadata": {}, "output_type": "execute_result"})
    return [*outputs, *_figures()]


def _figures() -> list[dict[str, Any]]:
    """Return the open figures as outputs, and close them."""
    from matplotlib import pyplot

    outputs: list[dict[str, Any]] = []
    for one in pyplot.get_fignums():
        file = io.BytesIO()
        pyplot.figure(one).savefig(file, format="png", dpi=DOTS, bbox_inches="tight", metadata={"Software": None})
        picture = base64.b64encode(file.getvalue()).decode("ascii")
        data = {"image/png": picture, "text/plain": ["a figure"]}
        outputs.append({"data": data, "metadata": {}, "output_type": "display_data"})
    pyplot.close("all")
    return outputs


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


if __name__ == "__main__":
    import matplotlib

    matplotlib.use("agg")
    for one in sys.argv[1:]:
        run(Path(one))
