"""Makes links of the names that docstrings write between backquotes, such as `contracts.Attack` or `Record`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import griffe

NAME = re.compile(r"(?<![`\w])`([A-Za-z_][\w.]*)`(?!`)")


class NamesInDocstrings(griffe.Extension):
    """Turns a name between single backquotes into a cross reference, where it names an object of the package.

    A name is looked up as Python would, from the object whose docstring it stands in outwards, then below the
    package: `attacks.ATTACKS` is `memory_defense.attacks.ATTACKS`. It becomes a link where the object is on the
    site, and stays code where it is not; whatever names nothing stays as it is.
    """

    def on_package(self, *, pkg: griffe.Module, loader: griffe.GriffeLoader, **_: Any) -> None:
        """Rewrite every docstring of a package, once all of it is read."""
        loader.resolve_aliases()
        for one in _objects(pkg):
            if one.docstring is not None:
                one.docstring.value = NAME.sub(lambda found, one=one: _linked(found, one, pkg), one.docstring.value)


def _objects(top: griffe.Object) -> Iterator[griffe.Object]:
    """Yield an object and all that it defines itself."""
    yield top
    for one in top.members.values():
        if not one.is_alias:
            yield from _objects(one)


def _linked(found: re.Match[str], near: griffe.Object, pkg: griffe.Module) -> str:
    """Return a name as a reference to what it names, or as it is written."""
    name = found[1]
    first, _, rest = name.partition(".")
    starts = [one for one in (_resolved(near, first), f"{pkg.path}.{first}") if one]
    for start in starts:
        place = f"{start}.{rest}".removesuffix(".").removeprefix(f"{pkg.path}.")
        try:
            path = pkg[place].canonical_path
        except (KeyError, griffe.GriffeError):
            continue
        return f'<autoref identifier="{path}" optional><code>{name}</code></autoref>'
    return found[0]


def _resolved(near: griffe.Object, name: str) -> str:
    try:
        return near.resolve(name)
    except griffe.NameResolutionError:
        return ""
