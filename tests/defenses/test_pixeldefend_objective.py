import copy
import math

import pytest
import torch
from torch import Tensor, nn

from memory_defense.contracts import Batch
from memory_defense.data.images import load_dataset
from memory_defense.data.sources import DataNotFoundError
from memory_defense.defenses.pixeldefend import (
    PixelCnnObjective,
    PixelDefend,
    StandIn,
    StandInObjective,
    build_pixeldefend,
)
from memory_defense.networks.classifiers import Linear
from memory_defense.networks.pixelcnn import PixelCnn, PixelCnnPlan
from memory_defense.randomness import ImageDraws


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def batch_of(images: Tensor, step: int = 0) -> Batch:
    ids = torch.arange(len(images))
    return Batch(images, torch.zeros_like(ids), ids, ImageDraws.of(step, "test", ids), 0.0)


def tiny(size: int = 8, dropout: float = 0.0) -> PixelDefend:
    plan = PixelCnnPlan(channels=1, size=size, filters=6, blocks=1, resolutions=2, mixtures=2, dropout=dropout)
    classifier = Linear(channels=1, size=size, classes=3, mean=(0.5,), std=(0.5,))
    return PixelDefend(
        classifier=classifier, purifier=PixelCnn(plan), epsilon_defend=16 / 255, stand_in=StandIn(1, 8)
    )


def train(defense: PixelDefend, objective, images: Tensor, steps: int, rate: float) -> list[float]:
    wanted = [parameter for parameter in defense.parameters() if parameter.requires_grad]
    optimizer, losses = torch.optim.Adam(wanted, rate), []
    for step in range(steps):
        part = images[torch.randint(len(images), (16,))]
        loss = objective(defense.train(), batch_of(part, step)).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    defense.eval()
    return losses


def test_the_loss_is_the_likelihood_in_nats_and_bits():
    defense, images = tiny().eval(), torch.rand(4, 1, 8, 8)
    parts = PixelCnnObjective()(defense, batch_of(images)).parts()
    bits = float(defense.bits_per_dimension(images).mean())
    assert parts["bits_per_dimension"] == pytest.approx(bits, rel=1e-5)
    assert parts["total"] == pytest.approx(bits * math.log(2), rel=1e-5)


def test_the_first_batch_initialises_and_the_next_ones_do_not():
    defense, images = tiny(), torch.rand(8, 1, 8, 8)
    objective = PixelCnnObjective(initial_images=4)
    by_hand = copy.deepcopy(defense.purifier)
    by_hand.initialise(images[:4])
    objective(defense, batch_of(images))
    for _ in range(2):
        assert all(
            torch.equal(a, b) for a, b in zip(by_hand.parameters(), defense.purifier.parameters(), strict=True)
        )
        objective(defense, batch_of(torch.rand(8, 1, 8, 8)))


def test_only_the_purifier_is_trained():
    defense = tiny()
    before = copy.deepcopy(defense.state_dict())
    train(defense, PixelCnnObjective(), torch.rand(32, 1, 8, 8), 2, 1e-2)
    changed = {name.split(".")[0] for name, value in defense.state_dict().items() if not value.equal(before[name])}
    kinds = {name for name in changed if name != "references"}
    assert kinds == {"purifier"}


def test_dropout_acts_in_train_mode_only():
    defense, batch = tiny(dropout=0.5), batch_of(torch.rand(4, 1, 8, 8))
    objective = PixelCnnObjective()
    objective(defense.train(), batch)  # initialises
    assert objective(defense, batch).parts() != objective(defense, batch).parts()
    defense.eval()
    assert objective(defense, batch).parts() == objective(defense, batch).parts()


def test_a_few_steps_on_fashion_mnist_lower_the_bits_of_other_images():
    try:
        splits = load_dataset("fashion-mnist", offline=True)
    except DataNotFoundError as error:
        pytest.skip(str(error))
    images, other = splits.train.floats(torch.arange(200)), splits.train.floats(torch.arange(1000, 1016))
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    defense = build_pixeldefend(channels=1, size=28, classifier=classifier)
    defense.purifier.initialise(images[:50])
    before = float(defense.bits_per_dimension(other).mean())
    train(defense, PixelCnnObjective(), images, 12, 4e-3)
    after = float(defense.bits_per_dimension(other).mean())
    assert after < before - 0.5
    assert after < 5.5, "8 is a uniform guess"


def test_the_stand_in_learns_to_imitate():
    defense, images = tiny(), torch.rand(64, 1, 8, 8)
    with torch.no_grad():
        for name, parameter in defense.purifier.named_parameters():
            if not name.endswith("direction"):
                parameter.zero_()
        defense.purifier.output.bias[4:] = -4.0  # one narrow logistic around grey for every pixel
    assert torch.equal(defense.purify(torch.zeros(1, 1, 8, 8)), torch.full((1, 1, 8, 8), 16 / 255))
    purifier = copy.deepcopy(defense.purifier.state_dict())

    losses = train(defense, StandInObjective(epsilon=0.05), images, 60, 1e-2)

    assert losses[0] == pytest.approx((16 / 255) ** 2, rel=0.1), "a new stand-in is the identity"
    assert losses[-1] < 0.5 * losses[0]
    for name, value in defense.purifier.state_dict().items():
        assert torch.equal(value, purifier[name])


def test_the_paper_gives_the_boxes():
    network = nn.Identity()
    assert build_pixeldefend(channels=1, size=28, classifier=network).radius == 32
    assert build_pixeldefend(channels=3, size=32, classifier=network).radius == 16
    chosen = build_pixeldefend(channels=1, size=28, classifier=network, epsilon_defend=8 / 255, stand_in=True)
    assert chosen.epsilon_defend == pytest.approx(8 / 255)
    assert chosen.stand_in is not None


def test_wrong_choices_are_refused():
    with pytest.raises(ValueError, match="did you mean 'fashion-mnist'"):
        build_pixeldefend(channels=1, size=28, classifier=nn.Identity(), preset="fashion-mnst")
    with pytest.raises(ValueError, match="initial_images is 0"):
        PixelCnnObjective(initial_images=0)
    with pytest.raises(ValueError, match="epsilon is 2"):
        StandInObjective(epsilon=2)
    defense = tiny()
    defense.stand_in = None
    with pytest.raises(ValueError, match="stand_in=True"):
        StandInObjective()(defense, batch_of(torch.rand(2, 1, 8, 8)))
