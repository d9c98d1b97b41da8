import pytest
import torch

from memory_defense.defenses.memory.defense import MemoryDefense
from memory_defense.defenses.memory.presets import PRESETS, build_memory_defense
from memory_defense.networks.classifiers import Linear

GREY = {"channels": 1, "size": 28, "classes": 10, "mean": (0.286,), "std": (0.353,)}
COLOUR = {"channels": 3, "size": 32, "classes": 10, "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.25)}


def build(preset: str, shape: dict, **options) -> MemoryDefense:
    return build_memory_defense(preset=preset, selector=Linear(**shape), **shape, **options).eval()


@pytest.mark.parametrize(
    ("preset", "shape", "items", "threshold"),
    [
        ("paper", GREY, 100, 1e-4),
        ("paper", COLOUR, 500, 1e-4),
        ("reference", GREY, 500, 1e-12),
        ("reference", COLOUR, 500, 1e-12),
        ("sound", GREY, 100, 1 / 100),
        ("sound", COLOUR, 500, 1 / 500),
    ],
)
def test_sizes_and_thresholds_of_the_readings(preset, shape, items, threshold):
    memory = build(preset, shape).memory

    assert memory.items.shape == (items, 1024)
    assert memory.shrink_threshold == threshold
    assert memory.keep_one == (preset == "sound")
    assert memory.shrinks == (preset == "sound"), "the published thresholds remove nothing"


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("shape", [GREY, COLOUR], ids=["grey", "colour"])
def test_every_reading_answers_and_differentiates(preset, shape):
    defense = build(preset, shape)
    images = torch.rand(3, shape["channels"], shape["size"], shape["size"], requires_grad=True)

    logits = defense(images)

    assert logits.shape == (3, 10)
    assert torch.autograd.grad(logits.square().sum(), images)[0].abs().sum() > 0


def test_only_the_reference_normalises_grey_images_with_mnists_constants():
    constants = {name: build(name, GREY).normalize for name in PRESETS}

    assert constants["reference"].mean.item() == pytest.approx(0.1307)
    assert constants["reference"].std.item() == pytest.approx(0.3081)
    for name in ("paper", "sound"):
        assert constants[name].mean.item() == pytest.approx(0.286)
        assert constants[name].std.item() == pytest.approx(0.353)
    assert build("reference", COLOUR).normalize.mean.flatten().tolist() == pytest.approx(list(COLOUR["mean"]))


def test_the_published_stem_is_blind_and_the_sound_one_is_not():
    stems = {name: build(name, GREY).encoder.layers[0].kernel_size for name in PRESETS}

    assert stems == {"paper": (1, 1), "reference": (1, 1), "sound": (3, 3)}


def test_classifier_b_does_not_normalise_a_second_time():
    defense = build("sound", COLOUR)
    reconstruction = torch.randn(2, 3, 32, 32)

    assert torch.equal(defense.classifier_b.normalize(reconstruction), reconstruction)


def test_overrides_win():
    defense = build("sound", GREY, memory_size=50)
    assert defense.memory.items.shape[0] == 50
    assert defense.memory.shrink_threshold == 1 / 50
    assert build("paper", GREY, shrink_threshold=0.012).memory.shrink_threshold == 0.012
    assert build("sound", GREY, shrink_threshold=0.0).memory.shrink_threshold == 0


def test_any_number_of_classes_has_a_default_memory():
    shape = {**GREY, "classes": 7}

    assert build("sound", shape).memory.items.shape[0] == 70


@pytest.mark.parametrize(
    ("preset", "changes", "message"),
    [
        ("sounds", {}, "did you mean 'sound'"),
        ("sound", {"memory_size": 101}, "use 100 or 110"),
        ("sound", {"memory_size": 0}, "the memory has 0 items"),
        ("sound", {"size": 15}, "takes 16 to 1024"),
        ("sound", {"size": 1025}, "takes 16 to 1024"),
        ("paper", {"shrink_threshold": 0.5}, "nothing is ever read"),
    ],
)
def test_bad_settings_are_refused(preset, changes, message):
    with pytest.raises(ValueError, match=message):
        build_memory_defense(preset=preset, selector=torch.nn.Identity(), **{**GREY, **changes})
