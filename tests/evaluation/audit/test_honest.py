"""Honest networks are believed: no check fails, and what did not run says why in a line."""

import pytest
import torch

import memory_defense
from evaluation.audit.honest import HONEST, honest, shapes
from memory_defense import Options
from memory_defense.evaluation.audit.findings import NOT_RUN

COUNT = 32
SKIPPED = {
    "every knowledge finds more than the weakest attack does",
    "accuracy falls with epsilon",
    "the curve against epsilon reaches 0 %",
    "twice the iterations find nothing more",
    "gradient attacks start more than once",
    "targeted and untargeted gradient attacks were run",
    "no transferred image finds what white-box attacks miss",
    "an attack that sees labels alone was run",
    "a transfer attack was run",
    "more than one norm was tried",
}
"""Checks that the default suite may have nothing for; where its first attack breaks all, no other attack is run."""


class Rounding(torch.nn.Module):
    def __init__(self, network) -> None:
        super().__init__()
        self.network = network

    def forward(self, images):
        return self.network((images * 7).round() / 7)


def test_a_network_that_rounds_pixels_is_no_list_of_images() -> None:
    images, labels = shapes(10, COUNT, seed=5)
    record = memory_defense.evaluate(
        Rounding(honest("dropout")), images, labels, epsilon=0.15, attacks="glimpse", options=Options(seed=0)
    )
    said = {line.check: line.verdict for line in record.audit}
    assert said["the margin loss has a gradient"] == "fail", "that is what is wrong with it"
    assert said["answers change gradually on the way to images never seen"] == "pass"
    assert said["images between two grey levels are answered as those at whole ones"] == "pass"


@pytest.mark.parametrize("name", HONEST)
def test_an_honest_network_fails_no_check(name) -> None:
    classes = 1000 if name == "1,000 classes" else 10
    images, labels = shapes(classes, COUNT, seed=5)
    record = memory_defense.evaluate(honest(name), images, labels, epsilon=0.15, options=Options(seed=0))
    assert record.clean.accuracy > 0.3, "a network that learnt nothing would prove nothing"
    assert {line.check: line.value for line in record.audit if line.verdict == "fail"} == {}
    skipped = {line.check: line.meaning.partition(NOT_RUN)[2] for line in record.audit if line.verdict == "not run"}
    assert all(len(reason) > 20 and "\n" not in reason for reason in skipped.values())
    if name == "dropout":
        assert set(skipped) <= SKIPPED
