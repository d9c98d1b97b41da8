"""A classifier of anybody as an ONNX file of images in [0, 1], its preprocessing included, and checked."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from memory_defense.contracts import Images
from memory_defense.files import atomic
from memory_defense.randomness import generator
from memory_defense.systems.exported import Exported
from memory_defense.systems.inputs import Queried
from memory_defense.systems.onnx_export import BATCHES, OPSET, RANDOM_IMAGES, TOLERANCE, traced
from memory_defense.systems.onnx_foreign import ABOUT, Described, OnnxNetwork
from memory_defense.systems.onnx_run import INPUT, OUTPUTS, needed, with_checksum
from memory_defense.version import __version__

_INSTEAD = "evaluate it as it is, or write it as a program with torch.export.save"


def export_classifier(model: nn.Module, place: Path, images: Images, described: Described) -> Exported:
    """Write a classifier as an ONNX file after ONNX Runtime has given its own answers.

    Parameters
    ----------
    model
        Images (B, C, H, W) in [0, 1] to logits (B, K), in eval mode and on the CPU.
    place
        The file; replaced if it is there.
    images
        (N, C, H, W) in [0, 1]: real images to compare on, beside random ones. Their C, H and W are the file's.
    described
        What the file says of its classes and of its origin.

    Raises
    ------
    ValueError
        For a model that is one in ONNX already or cannot be traced, or an ONNX model that answers otherwise.
        Nothing is then written.
    """
    if isinstance(model, Queried):
        raise ValueError(
            f"{described.source} can only be asked, not traced; copy the file itself, which other programs run as "
            "it is"
        )
    onnx = needed("onnx")
    proto = onnx.load_from_string(traced(model.eval(), images[:2], OUTPUTS[:1], _INSTEAD))
    about = {
        ABOUT: json.dumps(asdict(described)),
        "class_names": json.dumps(list(described.classes)),
        "input_range": "[0, 1]",
        "input_layout": f"batch, {', '.join(map(str, images.shape[1:]))}",
        "outputs": OUTPUTS[0],
    }
    onnx.helper.set_model_props(proto, about)
    proto.producer_name, proto.producer_version = "memory-defense", __version__
    onnx.checker.check_model(proto, full_check=True)
    drawn = torch.rand(RANDOM_IMAGES, *images.shape[1:], generator=generator(0, "onnx check"))
    asked = torch.cat([images[:RANDOM_IMAGES], drawn[: max(2, RANDOM_IMAGES - len(images))]])
    with atomic(place) as temporary:
        temporary.write_bytes(with_checksum(cast("bytes", proto.SerializeToString())))
        difference, allowed = _compared(model, OnnxNetwork(temporary), asked)
    return Exported(
        place,
        f"opset {OPSET}, input {INPUT} in [0, 1]; ONNX Runtime {needed('onnxruntime').__version__} agrees on "
        f"{len(asked)} images ({min(len(images), RANDOM_IMAGES)} of them real): logits differ by at most "
        f"{difference:.1e} (allowed: {allowed:.1e})",
    )


@torch.no_grad()
def _compared(model: nn.Module, candidate: OnnxNetwork, images: Images) -> tuple[float, float]:
    """Return the largest difference of the logits in several sizes of batches, and the one that is allowed."""
    wanted = torch.cat([cast("Tensor", model(part)) for part in torch.split(images, BATCHES[1])])
    allowed, largest = TOLERANCE * max(1.0, float(wanted.abs().max())), 0.0
    for size in BATCHES:
        given = torch.cat([candidate(part) for part in torch.split(images, size)])
        difference = (
            float((given - wanted).abs().nan_to_num(torch.inf).max()) if given.shape == wanted.shape else torch.inf
        )
        if difference > allowed:
            raise ValueError(
                f"the ONNX model's logits differ from the classifier's by {difference:.3g} in batches of {size}, "
                f"more than {allowed:.3g}, so it is not written; {_INSTEAD}"
            )
        largest = max(largest, difference)
    return largest, allowed
