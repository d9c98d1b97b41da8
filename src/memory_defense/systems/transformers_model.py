"""Image classifiers of transformers, from the folder that ``save_pretrained`` writes.

The file of its image processor is read, not run; its numbers become the first layer and a `Geometry`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from torch import nn

from memory_defense.contracts import Images, Logits
from memory_defense.data.geometry import Geometry
from memory_defense.run_directory import CONFIG, WEIGHTS
from memory_defense.systems.doors import LoadedModel
from memory_defense.systems.onnx_foreign import placed
from memory_defense.systems.onnx_run import needed
from memory_defense.systems.preprocessing import Preprocessing

PROCESSORS = ("preprocessor_config.json", "processor_config.json")
_STEPS = (
    "do_resize",
    "do_center_crop",
    "do_rescale",
    "do_normalize",
    "do_flip_channel_order",
    "do_convert_rgb",
    "do_reduce_labels",
)
"""Steps of an image processor that are carried out, or that change no image."""
_FILTERS = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
"""Pillow's numbers of its filters."""
_WARPED_FROM = 384
"""From this side on, processors with a `crop_pct` resize to a square and crop nothing."""
_LEVIT = "LevitImageProcessor"
_LEVIT_SHARE = (256, 224)


class _Logits(nn.Module):
    """A model of transformers as a classifier: its logits alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Images) -> Logits:
        """Return logits (B, K)."""
        return cast(Any, self.model)(pixel_values=images).logits


def load_transformers(folder: Path, preprocessing: Preprocessing | None = None) -> LoadedModel:
    """Return the image classifier in a folder that ``save_pretrained`` of transformers wrote.

    Nothing is downloaded, no code of the folder is run, and only weights in safetensors are read.

    Parameters
    ----------
    folder
        With ``config.json``, ``model.safetensors`` and, where there is one, ``preprocessor_config.json``.
    preprocessing
        Instead of the image processor's rescaling and normalisation; its size and crop stay.

    Raises
    ------
    ValueError
        Where transformers is not installed or cannot read the folder, weights are missing from it, or its processor
        does what this cannot follow.
    """
    transformers = needed("transformers", "models")
    config = _json(folder / CONFIG)
    if not list(folder.glob("*.safetensors")):
        raise ValueError(
            f"{folder} has no weights in safetensors; convert them once with: memdef convert "
            f"{folder / 'pytorch_model.bin'} {folder / WEIGHTS}"
        )
    model = _read(transformers, folder)
    said = _processor(folder)
    stated, geometry = (Preprocessing(), None) if said is None else (_pixels(said, folder), _sides(said, folder))
    chosen = preprocessing or stated
    channels = int(config.get("num_channels") or 3)
    network = _Logits(model).eval()
    return LoadedModel(
        module=placed(network, chosen, channels),
        network=network,
        preprocessing=chosen,
        names=_names(model),
        geometry=geometry,
        channels=channels,
        notes=_notes(folder, said, stated, preprocessing),
        sha256=_sha256(folder),
    )


def _read(transformers: Any, folder: Path) -> nn.Module:
    """Return the classifier, every weight of it from the folder."""
    logging, bars = transformers.logging, transformers.logging.is_progress_bar_enabled()
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        model, found = transformers.AutoModelForImageClassification.from_pretrained(
            str(folder),
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    except Exception as error:  # transformers raises many types here
        raise ValueError(
            f"transformers {transformers.__version__} reads no image classifier from {folder} "
            f"({' '.join(str(error).split())[:300]}); write the folder with save_pretrained of a model ...ForImage"
            "Classification, or name code of your own, package.module:build"
        ) from error
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()
    absent = sorted({*found["missing_keys"], *(str(one) for one in found.get("mismatched_keys", ()))})
    if absent:
        raise ValueError(
            f"{folder} lacks {len(absent)} of the model's weights, {absent[0]} among them, and they would be "
            "random; save the fine-tuned classifier itself with save_pretrained"
        )
    return cast("nn.Module", model).float().eval()


def _processor(folder: Path) -> Mapping[str, Any] | None:
    """Return what the folder says of its image processor; None where it has none."""
    for name in PROCESSORS:
        if (folder / name).is_file():
            said = _json(folder / name)
            inner = said.get("image_processor")
            return cast("Mapping[str, Any]", inner) if isinstance(inner, dict) else said
    return None


def _pixels(said: Mapping[str, Any], folder: Path) -> Preprocessing:
    """Return what the processor does to pixels, for pixels in [0, 1] where it counts from 0 to 255."""
    unknown = [name for name, on in said.items() if name.startswith("do_") and on and name not in _STEPS]
    if unknown:
        raise ValueError(
            f"{folder}: its image processor does {', '.join(unknown)}, which is not carried out here; set it to "
            "false where it does not matter, or name code of your own, package.module:build"
        )
    scale = 255.0 * float(said.get("rescale_factor") or 1 / 255) if said.get("do_rescale", True) else 255.0
    scale = 1.0 if abs(scale - 1) < 1e-6 else scale
    shift = 1.0 if said.get("rescale_offset") and said.get("do_rescale", True) else 0.0
    mean: tuple[float, ...] = (shift,) if shift else ()
    std: tuple[float, ...] = ()
    if said.get("do_normalize", "image_mean" in said) and said.get("image_mean"):
        mean = tuple(float(one) + shift for one in _listed(said["image_mean"]))
        std = tuple(float(one) for one in _listed(said["image_std"]))
        if said.get("include_top"):  # EfficientNet's processor divides once more
            std = tuple(one * one for one in std)
    flips = bool(said.get("do_flip_channel_order"))
    return Preprocessing(scale=scale, bgr=flips, mean=mean, std=std)


def _listed(value: Any) -> list[Any]:
    return list(cast("list[Any]", value)) if isinstance(value, (list, tuple)) else [value]


def _sides(said: Mapping[str, Any], folder: Path) -> Geometry | None:
    """Return how the processor brings images to the model's pixels; None where it leaves them."""
    try:
        resize, crop = _resized(said), None
        if said.get("do_center_crop") and said.get("crop_size") is not None:
            cut = said["crop_size"]
            crop = (int(cut), int(cut)) if isinstance(cut, int) else (int(cut["height"]), int(cut["width"]))
        if isinstance(resize, int) and "crop_pct" in said:
            side = int(said["size"]["shortest_edge"])
            crop = (side, side)
            resize = int(side / float(said["crop_pct"])) if side < _WARPED_FROM else crop
            crop = None if resize == crop else crop
        if resize is None and crop is None:
            return None
        which = said.get("resample", 2)
        return Geometry(resize=resize, crop=crop, interpolation=_FILTERS[int(which)])
    except (IndexError, KeyError, TypeError) as error:
        raise ValueError(
            f"{folder}: its image processor resizes in a way that is not carried out here (size "
            f"{said.get('size')}, crop {said.get('crop_size')}, resample {said.get('resample')}); give --geometry"
        ) from error


def _resized(said: Mapping[str, Any]) -> int | tuple[int, int] | None:
    size = said.get("size")
    if not said.get("do_resize", True) or size is None:
        return None
    if isinstance(size, int):  # of folders that are some years old
        return size if said.get("do_center_crop") or "crop_pct" in said else (size, size)
    if "height" in size:
        return int(size["height"]), int(size["width"])
    if set(size) != {"shortest_edge"}:
        raise KeyError(str(size))
    shorter = int(size["shortest_edge"])
    if str(said.get("image_processor_type")).startswith(_LEVIT):
        return int(_LEVIT_SHARE[0] / _LEVIT_SHARE[1] * shorter)
    return shorter


def _names(model: nn.Module) -> tuple[str, ...] | None:
    """Return the classes' names by label; None where nobody named them."""
    found = cast("dict[Any, Any]", cast(Any, model).config.id2label)
    names = tuple(str(found[label]) for label in sorted(found, key=int))
    return None if all(name == f"LABEL_{label}" for label, name in enumerate(names)) else names


def _notes(
    folder: Path, said: Mapping[str, Any] | None, stated: Preprocessing, given: Preprocessing | None
) -> tuple[str, ...]:
    if said is None and given is None:
        return (f"{folder.name} has no {PROCESSORS[0]}: its pixels are taken as they are",)
    if given is not None and str(given) != str(stated):
        return (f"instead of what the image processor of {folder.name} says, {stated.words}",)
    return ()


def _json(path: Path) -> dict[str, Any]:
    try:
        said = cast("object", json.loads(path.read_bytes()))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} cannot be read ({type(error).__name__}: {error}); save the model again with save_pretrained"
        ) from error
    if not isinstance(said, dict):
        raise ValueError(f"{path} holds no table of settings; save the model again with save_pretrained")
    return cast("dict[str, Any]", said)


def _sha256(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as source:
            digest.update(hashlib.file_digest(source, "sha256").digest())
    return digest.hexdigest()
