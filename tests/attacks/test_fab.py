"""FAB's projection against exact solvers, and its loop against a transcription of the paper for one image."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import linprog, minimize
from torch import Tensor, nn

from attacks import victims
from attacks.minimum import lead
from memory_defense.attacks import FabTargeted
from memory_defense.attacks.fab import shortest_steps
from memory_defense.contracts import Ball
from memory_defense.randomness import ImageDraws
from memory_defense.threat import L2, Linf
from memory_defense.wrappers import CountingPasses


def planes(count: int, size: int, share: float = 0.9) -> tuple[Tensor, Tensor, Tensor]:
    """Return points, normals (a fifth of the weights 0) and gaps that the box can close, all (B, 1, 1, D)."""
    random = victims.generator(7)
    points = (torch.rand(count, 1, 1, size, generator=random).double() * 1.4 - 0.2).clamp(0, 1)
    normals = torch.randn(count, 1, 1, size, generator=random).double()
    normals *= torch.rand(normals.shape, generator=random) > 0.2
    up = (normals.clamp(min=0) * (1 - points) - normals.clamp(max=0) * points).sum((1, 2, 3))
    down = -(normals.clamp(min=0) * points - normals.clamp(max=0) * (1 - points)).sum((1, 2, 3))
    gaps = (
        torch.rand(count, generator=random).double() * share * torch.where(torch.arange(count) % 2 == 0, up, down)
    )
    return points, normals, gaps


def exact_length(point: np.ndarray, normal: np.ndarray, gap: float, norm: str) -> float:
    """Return the shortest step's length from a solver that knows nothing of the structure."""
    bounds = list(zip(-point, 1 - point, strict=True))
    size = len(point)
    if norm == "linf":  # minimise t with -t <= d_i <= t
        sides = np.block([[np.eye(size), -np.ones((size, 1))], [-np.eye(size), -np.ones((size, 1))]])
        cost = np.append(np.zeros(size), 1.0)
        answer = linprog(
            cost, sides, np.zeros(2 * size), np.append(normal, 0.0)[None], [gap], [*bounds, (0.0, None)]
        )
        assert answer.success
        return float(answer.fun)
    plane = {"type": "eq", "fun": lambda step: step @ normal - gap, "jac": lambda _: normal}
    answer = minimize(
        lambda step: step @ step, np.zeros(size), jac=lambda step: 2 * step, bounds=bounds, constraints=[plane],
        method="SLSQP", options={"ftol": 1e-14, "maxiter": 500},
    )  # fmt: skip
    assert answer.success
    return math.sqrt(answer.fun)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_no_step_to_the_plane_inside_the_box_is_shorter(norm: str) -> None:
    points, normals, gaps = planes(40, 9)
    steps = shortest_steps(points, normals, gaps, norm)
    assert bool(((points + steps >= -1e-12) & (points + steps <= 1 + 1e-12)).all())
    torch.testing.assert_close((normals * steps).sum((1, 2, 3)), gaps, atol=1e-10, rtol=0)
    lengths = steps.abs().amax((1, 2, 3)) if norm == "linf" else steps.flatten(1).norm(dim=1)
    for index in range(40):
        exact = exact_length(
            points[index].flatten().numpy(), normals[index].flatten().numpy(), float(gaps[index]), norm
        )
        assert float(lengths[index]) == pytest.approx(exact, abs=1e-6)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_float32_is_as_good_as_bisection_in_float64(norm: str) -> None:
    points, normals, gaps = planes(64, 784)
    steps = shortest_steps(points.float(), normals.float(), gaps.float(), norm).double()
    speed = normals * gaps.sign()[:, None, None, None]
    speed = speed.sign() if norm == "linf" else speed
    low, high = torch.zeros(64, 1, 1, 1).double(), torch.full((64, 1, 1, 1), 1e6).double()
    for _ in range(120):
        middle = (low + high) / 2
        reach = (normals * ((points + middle * speed).clamp(0, 1) - points)).sum((1, 2, 3), keepdim=True)
        short = reach.abs() < gaps.abs()[:, None, None, None]
        low, high = torch.where(short, middle, low), torch.where(short, high, middle)
    torch.testing.assert_close(steps, (points + high * speed).clamp(0, 1) - points, atol=2e-5, rtol=0)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_plane_beyond_the_box_is_approached_to_the_corner(norm: str) -> None:
    points, normals, _ = planes(8, 20)
    steps = shortest_steps(points, normals, torch.full((8,), 1e3).double(), norm)
    corner = torch.where(normals > 0, 1.0, torch.where(normals < 0, 0.0, points))
    torch.testing.assert_close(points + steps, corner)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_no_gap_or_no_plane_means_no_step(norm: str) -> None:
    points, normals, gaps = planes(8, 20)
    assert not bool(shortest_steps(points, normals, 0 * gaps, norm).any())
    assert not bool(shortest_steps(points, 0 * normals, gaps, norm).any())


@pytest.mark.parametrize("scale", [1e-12, 1e12])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_scale_of_the_logits_does_not_matter(norm: str, scale: float) -> None:
    points, normals, gaps = (part.float() for part in planes(16, 30))
    plain = shortest_steps(points, normals, gaps, norm)
    torch.testing.assert_close(
        shortest_steps(points, normals * scale, gaps * scale, norm), plain, atol=1e-5, rtol=0
    )


def one_by_one(settings: FabTargeted, model: nn.Module, clean: Tensor, label: int, ball: Ball) -> Tensor:
    """The published loop for one image, target after target, with the norms written out."""
    logits = model(clean[None])[0]
    ranked = [int(k) for k in logits.argsort(descending=True) if int(k) != label]
    best, shortest = clean, math.inf

    def size(change: Tensor) -> float:
        return float(change.abs().max() if ball.norm == "linf" else change.norm())

    for target in ranked[: settings.targets]:
        point = clean
        for _ in range(settings.steps):
            leaf = point.clone().requires_grad_()
            answer = model(leaf[None])[0]
            f = answer[target] - answer[label]
            (w,) = torch.autograd.grad(f, leaf)
            value = float(f.detach())
            offset = value - float((w.double() * point).sum())  # the plane is <w, x> + offset = 0
            near, far = (
                shortest_steps(
                    start[None],
                    w[None],
                    torch.tensor([-offset - float((w.double() * start).sum())]).float(),
                    ball.norm,
                )[0]
                for start in (point, clean)
            )
            alpha = min(size(near) / (size(near) + size(far)), settings.alpha_max)
            point = (1 - alpha) * (point + settings.eta * near) + alpha * (clean + settings.eta * far)
            point = point.clamp(0, 1)
            if int(model(point[None]).argmax()) != label:
                if size(point - clean) < shortest:
                    best, shortest = point, size(point - clean)
                point = clean + settings.beta * (point - clean)
    return best.detach()


@pytest.mark.parametrize("ball", [Linf(1.0), L2(math.inf)], ids=["linf", "l2"])
def test_it_is_the_published_algorithm_image_by_image(ball: Ball) -> None:
    model, clean = victims.mlp(), victims.images(5)
    model.requires_grad_(False)
    labels = victims.right_answers(model, clean)
    settings = FabTargeted(steps=12, targets=2)
    result = settings(model, clean, labels, ball, ImageDraws.of(0, "a", 5))
    for image, label, ours in zip(clean, labels, result, strict=True):
        torch.testing.assert_close(ours, one_by_one(settings, model, image, int(label), ball), atol=1e-4, rtol=0)


def test_more_targets_find_shorter_changes_and_no_more_than_there_are() -> None:
    model, clean = victims.affine(), victims.images(32)
    labels, draws = victims.right_answers(model, clean), ImageDraws.of(0, "a", 32)
    distances, passes = [], []
    for targets in (1, 3, 9):
        counted = CountingPasses(model)
        result = FabTargeted(steps=15, targets=targets)(counted, clean, labels, Linf(1.0), draws)
        assert bool((lead(model, result, labels) > 0).all())
        distances.append(Linf(1.0).distance(result, clean))
        passes.append(counted.passes.backward)
    assert bool((distances[1] <= distances[0]).all())
    assert bool((distances[1] < 0.95 * distances[0]).any())
    assert torch.equal(distances[1], distances[2])
    assert passes == [15 * 32, 45 * 32, 45 * 32]


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"targets": 0}, "targets is 0"),
        ({"alpha_max": 0.0}, "alpha_max is 0.0"),
        ({"beta": 1.0}, "beta is 1.0"),
        ({"eta": 0.9}, "eta is 0.9"),
        ({"eta": math.inf}, "eta is inf"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, float], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        FabTargeted(**settings)  # pyright: ignore
