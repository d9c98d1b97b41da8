"""The memory that proves: its radii in closed form, against attacks, at ties, and through saving and training."""

from __future__ import annotations

import copy
from itertools import product

import pytest
import torch
from torch import Tensor

from memory_defense.attacks import Apgd, ApgdTargeted, CarliniWagner, Ddn, FabTargeted, Fmn, Pgd, Square
from memory_defense.contracts import Attack, Batch, Certifying, Defense
from memory_defense.data.images import ImageSet
from memory_defense.defenses.proving_memory import (
    PRESETS,
    ROUNDING,
    ProvingMemory,
    ProvingObjective,
    build_proving_memory,
    idleness,
    item_distances,
    soft_radius,
)
from memory_defense.networks.lipschitz import LipschitzEncoder, LipschitzPlan
from memory_defense.randomness import ImageDraws
from memory_defense.tensorfiles import read_tensors
from memory_defense.threat import L2
from memory_defense.training.checkpoint import load_weights, save_weights
from memory_defense.training.fit import FitConfig, fit
from memory_defense.training.optimizer import OptimizerConfig

CONFIG = FitConfig(
    epochs=3,
    batch_size=16,
    optimizer=OptimizerConfig(name="adamw", learning_rate=1e-2, schedule="one-cycle"),
    averaging=0.9,
    precision="float32",
    checkpoint_every=2,
)
SHAPE = {"channels": 1, "size": 8, "mean": [0.4], "std": [0.3]}


def isometric(classes: int, items: int, channels: int = 1) -> ProvingMemory:
    """Return a memory whose codes are the pixels themselves, in another order and shifted."""
    plan = LipschitzPlan(channels=channels, size=4, widths=(4 * channels,), depths=(0,), dense=())
    return memory(plan, classes, items)


def memory(plan: LipschitzPlan, classes: int, items: int, seed: int = 0) -> ProvingMemory:
    torch.manual_seed(seed)
    made = ProvingMemory(
        encoder=LipschitzEncoder(plan, [0.4] * plan.channels), classes=classes, items_per_class=items, hidden=8
    )
    made.items.data.normal_()
    return made.eval()


def blobs(classes: int = 4, count: int = 96) -> ImageSet:
    """Noisy images whose bright corner tells the class."""
    generator = torch.Generator().manual_seed(3)
    labels = torch.arange(count) % classes
    images = torch.randint(0, 90, (count, 1, 8, 8), generator=generator)
    for label in range(classes):
        row, column = 4 * (label // 2), 4 * (label % 2)
        images[labels == label, :, row : row + 4, column : column + 4] += 110
    return ImageSet(images.to(torch.uint8), labels, torch.arange(count))


def trained(classes: int = 4, items: int = 2) -> ProvingMemory:
    plan = LipschitzPlan(channels=1, size=8, widths=(6, 24), depths=(1, 2), dense=(24,))
    made = memory(plan, classes, items)
    fit(made, ProvingObjective(), blobs(classes), CONFIG, seed=1)
    return made


@pytest.fixture(scope="module")
def defense() -> ProvingMemory:
    return trained().requires_grad_(False)


@pytest.fixture(scope="module")
def certified(defense) -> tuple[Tensor, Tensor, Tensor]:
    """Images with their answers and radii, all of them proven; half are of the data, half between two classes."""
    images = blobs().floats()[:40]
    mixed = (images + images.roll(1, 0)) / 2
    points = torch.cat([images, mixed])
    labels, radii = defense.certificates(points)
    assert (radii[:40] > 0).float().mean() > 0.9
    keep = radii > 0.01
    return points[keep], labels[keep], radii[keep]


def brute_force(defense: ProvingMemory, images: Tensor) -> Tensor:
    """Return (B,) the radii by loops over items, in float64 and without any rounding taken off."""
    double = copy.deepcopy(defense).double()
    codes, items = double.encoder(images.double()), double.unit_items()
    found = []
    for code in codes:
        scores = [[float(code @ item) for item in slot] for slot in items]
        answer = max(range(defense.classes), key=lambda k: max(scores[k]))
        best = 0.0
        for a, score in zip(items[answer], scores[answer], strict=True):
            others = [
                quotient(score - scores[k][j], (a - items[k, j]).norm())
                for k, j in product(range(defense.classes), range(items.shape[1]))
                if k != answer
            ]
            best = max(best, min(others))
        found.append(best)
    return torch.tensor(found).double()


def quotient(lead: float, distance: Tensor) -> float:
    """Return the distance to the plane between two items; between equal ones there is none."""
    return lead / float(distance) if distance > 0 else 0.0


def allowed(defense: ProvingMemory, images: Tensor) -> float:
    """Return the most that `ROUNDING` takes off a radius: two items are far apart in these tests."""
    sizes = defense.encoder(images).norm(dim=1) + images[0].numel() ** 0.5
    nearest = torch.pdist(defense.unit_items().flatten(0, 1)).min()
    return float(ROUNDING * sizes.max() / nearest) * 1.01


def test_with_two_items_the_radius_is_the_distance_to_the_plane_between_them() -> None:
    defense = isometric(classes=2, items=1).requires_grad_(False)
    images = torch.rand(50, 1, 4, 4)
    labels, radii = defense.certificates(images)
    # The plane in pixel units: w . x + c = 0, whose w is the gradient of the lead, and whose c is its value at 0.
    point = torch.zeros(1, 1, 4, 4, dtype=torch.float64, requires_grad=True)
    double = copy.deepcopy(defense).double()
    lead = double(point)[0, 0] - double(point)[0, 1]
    (w,) = torch.autograd.grad(lead, point)
    leads = (images.double() * w).flatten(1).sum(1) + lead.detach()
    distance = leads.abs() / w.norm()
    assert torch.equal(labels, (leads < 0).long())
    assert (radii - distance).abs().max() <= allowed(defense, images)
    assert (radii <= distance).all()
    assert radii.dtype == torch.float64
    towards = -leads.sign()[:, None, None, None] * w / w.norm()
    step = (distance + 1e-6)[:, None, None, None]
    assert torch.equal(double(images + step * towards).argmax(1), 1 - labels), (
        "just beyond it the answer is another"
    )


@pytest.mark.parametrize(("classes", "items"), [(2, 1), (5, 1), (3, 4), (10, 16)])
def test_radii_are_those_of_loops_over_all_items(classes, items) -> None:
    defense = isometric(classes, items).requires_grad_(False)
    images = torch.rand(30, 1, 4, 4)
    labels, radii = defense.certificates(images)
    expected = brute_force(defense, images)
    assert torch.equal(labels, defense(images).argmax(1))
    assert (radii <= expected).all()
    assert (expected - radii).max() <= allowed(defense, images)
    assert (radii > 0).any()


def test_one_item_a_class_and_codes_that_are_pixels_leave_nothing_to_gain() -> None:
    """The radius is the exact distance to the nearest other class: a step of that length along the normal errs."""
    defense = isometric(classes=5, items=1).requires_grad_(False).double()
    images = torch.rand(20, 1, 4, 4).double()
    labels, radii = defense.certificates(images)
    point = images.clone().requires_grad_()
    fooled = torch.zeros(len(images), dtype=torch.bool)
    logits = defense(point)
    for other in range(5):
        (w,) = torch.autograd.grad((logits[:, other] - logits.gather(1, labels[:, None])[:, 0]).sum(), point,
                                   retain_graph=True)  # fmt: skip
        lengths = w.flatten(1).norm(dim=1).clamp_min(1e-12)
        step = (radii + allowed(defense, images))[:, None, None, None] * w / lengths[:, None, None, None]
        fooled |= defense(images + step).argmax(1) != labels
    assert fooled.all()


ATTACKS: dict[str, Attack] = {
    "pgd": Pgd(steps=40, loss="margin", restarts=2),
    "apgd": Apgd(steps=40, loss="cross-entropy"),
    "apgd-targeted": ApgdTargeted(steps=20),
    "fab": FabTargeted(steps=20),
    "square": Square(queries=200),
}


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
@pytest.mark.parametrize("share", [0.999, 3.0])
def test_no_attack_inside_the_radius_changes_the_answer(defense, certified, attack, share) -> None:
    images, labels, radii = certified
    broken = 0
    for group in radii.argsort().tensor_split(8):
        ball = L2(float(radii[group].min()) * share)
        draws = ImageDraws.of(0, "attack", group)
        found = attack(defense, images[group], labels[group], ball, draws)
        assert ball.contains(found, images[group]).all()
        broken += int((defense(found).argmax(1) != labels[group]).sum())
    if share < 1:
        assert broken == 0
    else:
        assert broken > 0, "the same attack works where nothing is proven"


@pytest.mark.parametrize(
    "attack",
    [Ddn(steps=60, loss="margin"), CarliniWagner(steps=60, search_steps=4), Fmn(steps=60)],
    ids=["ddn", "cw", "fmn"],
)
def test_no_radius_is_above_the_distance_of_the_nearest_mistake_found(defense, certified, attack) -> None:
    images, labels, radii = certified
    ball = L2(20.0)
    found = attack(defense, images, labels, ball, ImageDraws.of(0, "attack", len(images)))
    wrong = defense(found).argmax(1) != labels
    distances = ball.distance(found, images).double()
    assert wrong.float().mean() > 0.9
    assert (distances[wrong] >= radii[wrong]).all()
    assert (radii[wrong] / distances[wrong]).median() > 0.3, "the certificate is not empty either"


def test_no_random_image_inside_the_radius_gets_another_answer(defense, certified) -> None:
    images, labels, radii = certified
    torch.manual_seed(0)
    for _ in range(40):
        steps = torch.randn_like(images)
        steps *= (0.999 * radii / steps.flatten(1).norm(dim=1)).float()[:, None, None, None]
        assert torch.equal(defense(images + steps).argmax(1), labels)


def test_codes_of_a_trained_encoder_are_no_further_apart_than_images(defense) -> None:
    one, other = torch.rand(2, 200, 1, 8, 8)
    apart = (defense.encoder(one) - defense.encoder(other)).norm(dim=1)
    assert (apart <= (one - other).flatten(1).norm(dim=1) * (1 + 1e-5)).all()


def test_what_float32_does_is_far_below_what_is_taken_off(defense, certified) -> None:
    images = torch.cat([certified[0], torch.rand(100, 1, 8, 8), torch.ones(1, 1, 8, 8), torch.zeros(1, 1, 8, 8)])
    double = copy.deepcopy(defense).double()
    exact = double.scores_of(double.encoder(images.double())).flatten(1)
    error = defense.scores_of(defense.encoder(images)).double().flatten(1) - exact
    leads = (error[:, :, None] - error[:, None]).abs().amax((1, 2))
    sizes = defense.encoder(images).norm(dim=1) + 8
    assert (leads / sizes).max() < ROUNDING / 16


def test_answers_and_radii_do_not_depend_on_who_asks(defense, certified) -> None:
    images, labels, radii = certified
    assert torch.equal(defense(images).argmax(1), labels)
    assert torch.equal(defense.certificates(images).radii, radii)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(defense.certificates(images).radii, radii)
    alone = torch.cat([defense.certificates(image[None]).radii for image in images])
    assert torch.allclose(alone, radii, atol=1e-5, rtol=0)
    training = copy.deepcopy(defense).train().certificates(images)
    assert torch.allclose(training.radii, radii, atol=1e-5, rtol=0)


def test_ties_prove_nothing() -> None:
    defense = isometric(classes=3, items=2).requires_grad_(False)
    defense.items[1, 0] = defense.items[0, 1]  # an item of two classes
    images = torch.rand(200, 1, 4, 4)
    labels, radii = defense.certificates(images)
    scores = defense.scores_of(defense.encoder(images))
    shared = (scores.flatten(1).argmax(1) == 1) | (scores.flatten(1).argmax(1) == 2)
    assert shared.any()
    assert (labels[shared] == 0).all(), "the first of equal classes, as argmax has it"
    assert (radii[shared] <= brute_force(defense, images[shared])).all()
    defense.items[:] = defense.items[0, 0]
    assert (defense.certificates(images).radii == 0).all()
    grey = torch.full((1, 1, 4, 4), 0.4)  # its code is 0, and so are all scores
    assert defense.certificates(grey).radii.item() == 0


def test_without_finite_scores_it_abstains(defense) -> None:
    images = torch.rand(3, 1, 8, 8)
    images[1, 0, 0, 0] = torch.nan
    labels, radii = defense.certificates(images)
    assert labels[1] == -1
    assert radii[1] == 0
    assert torch.equal(labels[[0, 2]], defense(images[[0, 2]]).argmax(1))


def test_it_is_a_defense_that_certifies(defense) -> None:
    assert isinstance(defense, Defense)
    assert isinstance(defense, Certifying)
    assert defense.certified_norm == "l2"
    assert defense.surrogates() == {"end-to-end": defense}
    images = torch.rand(4, 1, 8, 8, requires_grad=True)
    (gradient,) = torch.autograd.grad(defense(images)[:, 0].sum(), images)
    assert (gradient.flatten(1).norm(dim=1) <= 1 + 1e-5).all(), "a score is 1-Lipschitz, too"
    assert (gradient.flatten(1).norm(dim=1) > 0).all()


def test_coarse_weights_prove_nothing(defense) -> None:
    images = torch.rand(2, 1, 8, 8)
    with pytest.raises(ValueError, match="bfloat16, and nothing is proven"):
        copy.deepcopy(defense).bfloat16().certificates(images.bfloat16())
    double = copy.deepcopy(defense).double()
    assert torch.allclose(double.certificates(images.double()).radii, defense.certificates(images).radii, atol=1e-4)


def test_what_is_shown_has_no_part_in_the_answer(defense) -> None:
    images = blobs().floats()[:6]
    scrambled = copy.deepcopy(defense)
    for parameter in scrambled.decoder.parameters():
        parameter.fill_(torch.nan)
    assert torch.equal(scrambled(images), defense(images))
    assert torch.equal(scrambled.certificates(images).radii, defense.certificates(images).radii)
    rebuilt, of_classes, prototypes = (
        defense.reconstruct(images),
        defense.reconstruct_all(images),
        defense.prototypes(),
    )
    assert rebuilt.shape == images.shape
    assert of_classes.shape == (6, 4, 1, 8, 8)
    assert prototypes.shape == (4, 2, 1, 8, 8)
    scores = defense.scores_of(defense.encoder(images))
    for image, label in product(range(6), range(4)):
        assert torch.equal(of_classes[image, label], prototypes[label, scores[image, label].argmax()])
    assert 0 <= float(rebuilt.min()) <= float(rebuilt.max()) <= 1


def batch(images: ImageSet) -> Batch:
    return Batch(images.floats(), images.labels, images.ids, ImageDraws.of(0, "training", images.ids), 0.0)


def test_the_decoder_learns_alone_and_from_its_own_error_alone() -> None:
    defense = memory(LipschitzPlan(channels=1, size=8, widths=(6,), depths=(1,), dense=()), 4, 2)
    losses = ProvingObjective()(defense, batch(blobs()))
    of_decoder = torch.autograd.grad(
        losses.reconstruction, list(defense.parameters()), retain_graph=True, allow_unused=True
    )
    of_rest = torch.autograd.grad(losses.margin + losses.idle_items, list(defense.parameters()), allow_unused=True)
    for (name, _), from_error, from_margin in zip(defense.named_parameters(), of_decoder, of_rest, strict=True):
        mine = name.startswith("decoder")
        assert (from_error is not None) == mine, name
        assert (from_margin is not None) != mine, name


def test_the_smooth_radius_becomes_the_radius() -> None:
    defense = isometric(classes=4, items=3).requires_grad_(False)
    images = torch.rand(40, 1, 4, 4)
    labels, radii = defense.certificates(images)
    scores, distances = defense.scores_of(defense.encoder(images)), item_distances(defense.unit_items())
    for temperature, error in ((1e-3, 0.01), (1e-4, 1e-3)):
        smooth = soft_radius(scores, labels, distances, temperature)
        assert (smooth.double().clamp_min(0) - radii).abs().max() < error
    assert (soft_radius(scores, (labels + 1) % 4, distances, 1e-3) < 0.01).all(), "a wrong class has none"


def test_with_one_item_a_class_the_loss_is_a_cross_entropy_with_a_margin() -> None:
    defense = memory(LipschitzPlan(channels=1, size=8, widths=(6,), depths=(1,), dense=()), 2, 1)
    defense.items.data[1] = -defense.items.data[0]  # two apart
    images = batch(blobs(classes=2))
    objective = ProvingObjective(margin=0.3, temperature=0.5)
    logits = defense(images.images) / 2 / 0.5
    logits = logits - 0.3 / 0.5 * torch.nn.functional.one_hot(images.labels, 2)
    expected = 0.5 * torch.nn.functional.cross_entropy(logits, images.labels)
    assert torch.allclose(objective(defense, images).margin, expected, atol=1e-5)


def test_idle_items_are_counted_class_by_class() -> None:
    labels = torch.tensor([0, 0, 1, 1])
    one = torch.tensor([1.0, 0.0])
    other = one.flip(0)
    assert idleness(torch.stack([one, other, one, other]), labels, 3) == pytest.approx(0, abs=1e-6)
    assert idleness(torch.stack([one, one, other, other]), labels, 3) == pytest.approx(1, abs=1e-6)
    assert idleness(torch.stack([one, one, one, other]), labels, 3) == pytest.approx(0.5, abs=1e-6)
    assert idleness(torch.ones(4, 1), labels, 3) == 0


def test_it_learns_to_answer_and_to_prove() -> None:
    images = blobs()
    untrained = memory(LipschitzPlan(channels=1, size=8, widths=(6, 24), depths=(1, 2), dense=(24,)), 4, 2)
    before, after = (one.certificates(images.floats()) for one in (untrained, trained()))
    right = [(one.labels == images.labels) & (one.radii > 0.3) for one in (before, after)]
    assert right[0].float().mean() < 0.4
    assert right[1].float().mean() > 0.9


class StopAt:
    """A progress that presses Ctrl-C after some steps."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def begin(self, what: str, total: int) -> None:
        pass

    def advance(self, steps: int, text: str = "") -> None:
        self.left -= steps
        if self.left <= 0:
            raise KeyboardInterrupt

    def note(self, text: str) -> None:
        pass


@pytest.mark.parametrize("steps", [1, 7, 12])
def test_a_stopped_training_ends_bit_identical(tmp_path, steps) -> None:
    plan = LipschitzPlan(channels=1, size=8, widths=(6,), depths=(1,), dense=(8,))
    score = lambda model: -float(ProvingObjective()(model, batch(blobs(count=32))).total.detach())  # noqa: E731
    whole, state = memory(plan, 4, 2), tmp_path / "state.safetensors"
    expected = fit(whole, ProvingObjective(), blobs(), CONFIG, seed=1, validate=score)
    with pytest.raises(KeyboardInterrupt):
        fit(memory(plan, 4, 2), ProvingObjective(), blobs(), CONFIG, seed=1, validate=score, state=state,
            progress=StopAt(steps))  # fmt: skip
    resumed = memory(plan, 4, 2)
    assert fit(resumed, ProvingObjective(), blobs(), CONFIG, seed=1, validate=score, state=state) == expected
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
    images = blobs().floats()
    assert torch.equal(whole.certificates(images).radii, resumed.certificates(images).radii)


def test_certificates_follow_further_training(defense) -> None:
    images, going_on = blobs().floats(), copy.deepcopy(defense).requires_grad_(True)
    before = going_on.certificates(images).radii
    fit(going_on, ProvingObjective(margin=0.1), blobs(), CONFIG, seed=2)
    after = going_on.certificates(images).radii
    fresh = memory(going_on.encoder.plan, 4, 2).to(memory_format=torch.channels_last)
    fresh.load_state_dict(going_on.state_dict())
    assert torch.equal(after, fresh.certificates(images).radii)
    assert not torch.equal(after, before)


def test_it_comes_back_from_a_file_bit_for_bit(defense, tmp_path) -> None:
    images, path = blobs().floats(), tmp_path / "weights.safetensors"
    defense.certificates(images)  # what is remembered is not saved
    save_weights(path, defense)
    again = memory(defense.encoder.plan, 4, 2, seed=5).to(memory_format=torch.channels_last)
    load_weights(path, again)
    assert torch.equal(again(images), defense(images))
    assert torch.equal(again.certificates(images).radii, defense.certificates(images).radii)
    assert set(read_tensors(path)[0]) == set(defense.state_dict())


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(("channels", "size"), [(1, 28), (3, 32), (3, 5)])
def test_presets_take_grey_and_colour_images_of_any_size(preset, channels, size) -> None:
    made = build_proving_memory(
        preset=preset, channels=channels, size=size, classes=3, mean=[0.4] * channels, std=[0.3] * channels
    ).eval()
    answers = made.certificates(torch.rand(2, channels, size, size))
    assert made.items.shape[:2] == (3, PRESETS[preset].items_per_class)
    assert answers.labels.shape == answers.radii.shape == (2,)


def test_the_number_of_items_can_be_chosen() -> None:
    made = build_proving_memory(preset="tiny", memory_size=15, classes=5, **SHAPE)
    assert made.items.shape[:2] == (5, 3)
    items = made.unit_items()
    assert torch.allclose(items.norm(dim=2), torch.ones(5, 3))
    inside = (items @ items.transpose(1, 2)).flatten(1).min()
    assert inside > 0.8, "items of a class begin near each other"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: build_proving_memory(preset="smal", classes=3, **SHAPE), "did you mean 'small'"),
        (lambda: build_proving_memory(memory_size=7, classes=3, **SHAPE), "use 6 or 9"),
        (lambda: build_proving_memory(memory_size=2, classes=3, **SHAPE), "use 3 or 6"),
        (lambda: build_proving_memory(classes=3, **{**SHAPE, "size": 3}), "takes 4 to 128"),
        (lambda: build_proving_memory(classes=1, **SHAPE), "at least 2"),
        (lambda: isometric(classes=1, items=1), "classes is 1"),
        (lambda: isometric(classes=2, items=0), "items_per_class is 0"),
        (lambda: ProvingObjective(temperature=0), "temperature is 0"),
        (lambda: ProvingObjective(margin=-1), "margin is -1"),
    ],
)
def test_what_does_not_fit_is_refused(make, message) -> None:
    with pytest.raises(ValueError, match=message):
        make()
