"""What a network wants its pixels to be, as people write it: ``mean=...,std=...``, ``255``, ``127``, ``bgr``."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Of ImageNet's training pixels in [0, 1], red, green, blue."""

_EXAMPLE = "mean=0.485/0.456/0.406,std=0.229/0.224/0.225"
_NUMBERS = ("mean", "std", "scale")
_WORDS = ("255", "127", "bgr", "imagenet", "none")


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """From pixels x in [0, 1], red, green, blue, to a network's input: ``(scale * x - mean) / std``.

    Raises
    ------
    ValueError
        For a number that is not finite, or a scale or standard deviation that is not above 0.
    """

    scale: float = 1.0
    """255 for a network that takes grey levels."""
    bgr: bool = False
    """Whether the network takes blue first; `mean` and `std` are then those of blue, green, red."""
    mean: tuple[float, ...] = ()
    """One number, or one for each channel as the network takes them, after scaling; empty is 0."""
    std: tuple[float, ...] = ()
    """The same; empty is 1."""

    def __post_init__(self) -> None:
        if not all(map(isfinite, (self.scale, *self.mean, *self.std))) or min((self.scale, *self.std)) <= 0:
            raise ValueError(
                f"scale {self.scale:g}, mean {_written(self.mean) or '0'} and std {_written(self.std) or '1'} must "
                f"be finite, and scale and std above 0; write {_EXAMPLE}, say"
            )

    def __str__(self) -> str:
        """Return what `parse` reads; empty where pixels are taken as they are."""
        if (self.scale, self.mean, self.std) == (255.0, (127.0,), (128.0,)):
            return ",".join(["bgr"] * self.bgr + ["127"])
        parts = ["bgr"] * self.bgr + ["255" if self.scale == 255 else f"scale={self.scale:.10g}"] * (
            self.scale != 1
        )
        parts += [f"{name}={_written(one)}" for name, one in (("mean", self.mean), ("std", self.std)) if one]
        return ",".join(parts)

    @property
    def words(self) -> str:
        """What it does, for a sentence that begins with "with"."""
        channels = ", blue first" if self.bgr else ""
        if (self.scale, self.mean, self.std) == (1.0, IMAGENET_MEAN, IMAGENET_STD):
            return f"ImageNet's mean and standard deviation{channels}"
        if not self.mean and not self.std:
            return (f"pixels from 0 to {self.scale:g}" if self.scale != 1 else "pixels as they are") + channels
        if len(self.mean) == len(self.std) == 1:
            x = "x" if self.scale in (1.0, 255.0) else f"{self.scale:g} x"
            levels = ", x from 0 to 255" if self.scale == 255 else ""
            return f"({x} - {self.mean[0]:g}) / {self.std[0]:g}{levels}{channels}"
        return str(self)

    @classmethod
    def parse(cls, text: str) -> Preprocessing:
        """Return the preprocessing of a line such as ``bgr,255,mean=104/117/123``.

        ``255`` scales pixels to [0, 255], ``scale=`` by another number, ``127`` is (255 x - 127) / 128, ``bgr``
        hands blue over first, ``imagenet`` is ImageNet's mean and std, ``none`` takes pixels as they are. ``mean=``
        and ``std=`` are one number or one for each channel, separated by ``/``, in the units and the order that the
        network takes.

        Raises
        ------
        ValueError
            For a part that is none of these, twice the same, or two that exclude each other.
        """
        given: dict[str, str] = {}
        for part in text.split(","):
            name, equals, value = (piece.strip() for piece in part.partition("="))
            known = name in _NUMBERS if equals else name in _WORDS
            if not known or name in given:
                raise ValueError(
                    f"{text!r} says no preprocessing at {part!r}; write {', '.join(_WORDS)}, or {_EXAMPLE}, joined "
                    "by commas"
                )
            given[name] = value
        whole = next((name for name in ("127", "imagenet", "none", "255") if name in given), None)
        others = [name for name in given if name not in (whole, "bgr")]
        if whole == "255":
            others = [name for name in others if name == "scale"]
        if whole and others:
            raise ValueError(f"{text!r}: {whole} says {', '.join(others)} already; leave out {', '.join(others)}")
        bgr = "bgr" in given
        if "127" in given:
            return cls(scale=255.0, bgr=bgr, mean=(127.0,), std=(128.0,))
        if "imagenet" in given:
            step = -1 if bgr else 1
            return cls(bgr=bgr, mean=IMAGENET_MEAN[::step], std=IMAGENET_STD[::step])
        numbers = {name: _numbers(text, given[name]) for name in _NUMBERS if name in given}
        scale = numbers.pop("scale", (255.0 if "255" in given else 1.0,))
        return cls(scale=scale[0], bgr=bgr, **numbers)


def _numbers(text: str, value: str) -> tuple[float, ...]:
    try:
        return tuple(float(number) for number in value.split("/"))
    except ValueError as error:
        raise ValueError(f"{text!r} has no numbers at {value!r}; separate them by /, such as {_EXAMPLE}") from error


def _written(numbers: tuple[float, ...]) -> str:
    return "/".join(f"{number:.10g}" for number in numbers)
