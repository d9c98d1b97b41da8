"""What several commands ask about a classifier that is no run, and about the images that show what it takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from memory_defense.cli.arguments import check_framing, check_source

if TYPE_CHECKING:
    import torch

    from memory_defense.cli.own_target import OwnTarget
    from memory_defense.contracts import Progress
    from memory_defense.data.geometry import Framing
    from memory_defense.systems.doors import LoadedModel

_OF_CLASSIFIERS = ("weights", "argument", "preprocess", "random_weights", "size", "geometry", "classes")
"""Options that a run directory has no use for."""


@dataclass(frozen=True, kw_only=True)
class OwnOptions:
    """A classifier and its images, as typed by the user; `cli.arguments` describes each option."""

    target: str
    data: str | None = None
    size: int | None = None
    geometry: str | None = None
    classes: Path | None = None
    weights: Path | None = None
    argument: list[str] | None = None
    preprocess: str | None = None
    random_weights: bool = False
    data_dir: Path | None = None
    offline: bool = False

    @classmethod
    def of(cls, options: object, **found: Any) -> Self:
        """Return these options of a command, typed or `found` by it; those that it has not keep their default."""
        given: dict[str, Any] = vars(options) | found
        return cls(**{one.name: given[one.name] for one in fields(cls) if one.name in given})

    def check(self, *, images: bool = True) -> None:
        """Raise ValueError for options that do not go together, and, with `images`, where none are named."""
        from memory_defense.systems.doors import check_target

        if images and self.data is None:
            raise ValueError("which images? give --data: a folder, a file of arrays, fashion-mnist or cifar10")
        check_target(
            self.target,
            self.weights,
            self.preprocess,
            random_weights=self.random_weights,
            arguments=self.argument,
        )
        check_framing(self.size, self.geometry, self.classes)
        if self.data is not None:
            check_source(self.data, self.data_dir)

    def given(self, *also: str) -> list[str]:
        """Return the options that were given of those that only a classifier has a use for, and of `also`."""
        names = (*also, *_OF_CLASSIFIERS)
        return [f"--{name.replace('_', '-')}" for name in names if getattr(self, name) not in (None, False)]

    def framing(self, loaded: LoadedModel) -> Framing:
        """Return how pictures are brought to the classifier's pixels, as asked or as its files say, else None."""
        from memory_defense.data.geometry import Geometry, framing_of

        if self.size is not None or self.geometry is not None:
            return framing_of(self.size, self.geometry)
        if loaded.geometry is not None:
            return loaded.geometry
        return None if loaded.sides is None else Geometry(resize=loaded.sides)

    def refuse(self, also: Mapping[str, object] | None = None, *, but: str = "") -> None:
        """Raise ValueError where a run directory is given what only a classifier has a use for.

        Parameters
        ----------
        also
            Further options by name, which count where they are neither None nor False.
        but
            An option that a run has a use for here.
        """
        only = [name for name, value in (also or {}).items() if value not in (None, False)]
        only += [name for name in self.given() if name != f"--{but}"]
        if only:
            raise ValueError(
                f"{', '.join(only)}: only for package.module:build, but {self.target} is a run directory"
            )

    def load(self, device: torch.device, progress: Progress, *, images: int | None, look: bool = True) -> OwnTarget:
        """Return the classifier and its images; see `own_target.own_target`."""
        from memory_defense.cli.own_target import own_target

        return own_target(
            self.target,
            source=self.data or "",
            weights=self.weights,
            arguments=self.argument,
            preprocess=self.preprocess,
            random_weights=self.random_weights,
            look=look,
            size=self.size,
            geometry=self.geometry,
            classes=self.classes,
            images=images,
            data_dir=self.data_dir,
            offline=self.offline,
            device=device,
            progress=progress,
        )
