"""Broken defenses as a table: each is well formed, its own evaluation believes it, and ours does not."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from memory_defense.attacks import Square
from memory_defense.data.images import ImageSet

ROOT = Path(__file__).parents[2]
RECORD = ROOT / "docs/results/broken-defenses.json"
EPSILON = 0.1
LINES = 40
MODULES = ("activations", "drawn", "heads", "inputs", "reacting")
FAMILIES = {
    *("k-winners", "thermometer", "jpeg", "resizing", "pruning", "distillation", "diversity", "purifier"),
    *("mean-sparse", "prototypes", "keyed-noise", "squeezing"),
}
"""Those whose break everybody knows."""


@pytest.fixture(autouse=True)
def _benchmarks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    yield
    for name in [one for one in sys.modules if one.split(".")[0] in ("broken", "broken_defenses")]:
        del sys.modules[name]


def registry() -> dict[str, Any]:
    return import_module("broken").BROKEN


def document() -> dict[str, Any]:
    return json.loads(RECORD.read_text(encoding="utf-8"))


def pictures(count: int, seed: int) -> ImageSet:
    """Ten faint patterns under noise: easily learnt, and easily attacked."""
    coarse = torch.rand(10, 1, 7, 7, generator=torch.Generator().manual_seed(0))
    patterns = coarse.repeat_interleave(4, 2).repeat_interleave(4, 3)
    labels = torch.arange(count) % 10
    noise = torch.rand(count, 1, 28, 28, generator=torch.Generator().manual_seed(seed))
    return ImageSet(0.3 + 0.2 * patterns[labels] + 0.2 * noise, labels, torch.arange(count))


def kit(folder: Path, *, trained: bool) -> Any:
    """What nets are trained with; without training, nets are as they were drawn."""
    parts = import_module("broken.parts")
    made = parts.Kit(pictures(320, 1), pictures(100, 2), folder, epochs=3, batch_size=16)
    if not trained:
        made = _Untrained(made.train, made.held_out, folder)
    return made


class _Untrained:
    def __init__(self, train: ImageSet, held_out: ImageSet, cache: Path) -> None:
        self.train, self.held_out, self.cache = train, held_out, cache

    def trained(self, name: str, make: Any, objective: Any = None) -> nn.Module:
        torch.manual_seed(len(name))
        return make().eval()

    def plain(self) -> nn.Module:
        return self.trained("plain", import_module("broken.parts").small_net)

    robust = plain


def test_every_family_is_there_and_says_who_broke_it() -> None:
    known = registry()
    assert set(known) >= FAMILIES
    assert len({one.title for one in known.values()}) == len(known)
    for name, one in known.items():
        assert all((one.title, one.defense, one.broken, one.weak, one.why)), name


def test_no_defense_has_more_than_forty_lines() -> None:
    found = [
        one
        for module in map(import_module, (f"broken.{name}" for name in MODULES))
        for _, one in inspect.getmembers(module, inspect.isclass)
        if one.__module__ == module.__name__ and issubclass(one, nn.Module)
    ]
    assert len(found) >= len(FAMILIES)
    for one in found:
        assert len(inspect.getsource(one).splitlines()) <= LINES, one


def test_each_defense_answers_logits_and_its_attacks_stay_in_the_ball(tmp_path: Path) -> None:
    bare, parts = kit(tmp_path, trained=False), import_module("broken.parts")
    test = pictures(4, 3)
    images = test.floats()
    for name, one in registry().items():
        trial = one.make(bare)
        assert trial.model(images).shape == (4, 10), name
        assert trial.model(images).isfinite().all(), name
        assert parts.right(trial.model, images, test.labels).dtype == torch.bool
        for what, climb in {"weak": trial.weak, **trial.strong}.items():
            short = replace(climb, steps=1, samples=1, differences=min(1, climb.differences))
            for points in short(images, test.labels, EPSILON):
                assert float((points - images).abs().max()) <= EPSILON + 1e-6, (name, what)
                assert 0 <= float(points.min()) <= float(points.max()) <= 1, (name, what)


def test_climbs_reach_the_corner_of_the_ball_that_a_linear_model_names() -> None:
    byhand = import_module("broken.byhand")
    weight = torch.randn(2, 784, generator=torch.Generator().manual_seed(4))
    images, labels = pictures(6, 5).floats(), torch.arange(6) % 2

    def linear(points: torch.Tensor) -> torch.Tensor:
        return points.flatten(1) @ weight.T

    wanted = images + EPSILON * (weight[1 - labels] - weight[labels]).sign().view_as(images)
    settings = {"steps": 4}, {"steps": 3, "ranks": 1}, {"steps": 1, "step": 1.0, "starts": 0}
    for setting in (*settings, {"steps": 4, "samples": 2, "spread": 0.1}):
        climb = byhand.Climb(on=linear, loss=byhand.lead, **setting)
        for points in climb(images, labels, EPSILON):
            close = (points - wanted).abs() < 0.02 * EPSILON if "step" not in setting else points.eq(wanted)
            assert close.float().mean() > 0.99, setting


def test_its_own_evaluation_believes_a_defense_and_ours_does_not(tmp_path: Path) -> None:
    script, name = import_module("broken_defenses"), "bit-depth"
    test, attack = pictures(12, 6), Square(queries=60, p_init=0.3)
    row = script.measured(
        name, registry()[name], kit(tmp_path, trained=True), test.floats(), test.labels, attacks=[attack]
    )
    shares = {what: row[what]["accuracy"] for what in ("clean", "claimed", "ours", "truth")}
    assert shares["clean"] > 0.8, shares
    assert shares["claimed"] > shares["ours"] + 0.3, shares
    assert shares["claimed"] > shares["truth"] + 0.3, shares
    assert row["ours"]["found_by"], "something broke it"


def test_a_defense_that_flags_counts_what_is_flagged_as_standing() -> None:
    parts = import_module("broken.parts")

    class Flags(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.eye(2)[[0] * len(images)]

        def suspicious(self, images: torch.Tensor) -> torch.Tensor:
            return images.flatten(1)[:, 0] > 0.5

    images = torch.tensor([0.1, 0.1, 0.9, 0.9]).view(4, 1, 1, 1)
    assert parts.right(Flags(), images, torch.tensor([0, 1, 0, 1])).tolist() == [True, False, True, True]


def test_rows_of_other_settings_are_not_put_beside_each_other(tmp_path: Path) -> None:
    script, out = import_module("broken_defenses"), tmp_path / "rows.json"
    empty = script.begun(out, script.settings(100))
    assert empty["rows"] == {}
    out.write_text(json.dumps(empty), encoding="utf-8")
    assert script.begun(out, script.settings(100)) == empty
    with pytest.raises(SystemExit, match="images 100, now 50"):
        script.begun(out, script.settings(50))


def test_the_record_has_every_defense_and_each_break_is_one() -> None:
    """That the page shows the record is tested with the other filled pages."""
    found, words = document(), import_module("broken_defenses").words
    assert list(found["rows"]) == list(registry())
    for name, row in found["rows"].items():
        assert row.items() >= words(registry()[name]).items()
        assert row["claimed"]["accuracy"] > row["truth"]["accuracy"], name
        assert row["truth"]["accuracy"] <= min(one["accuracy"] for one in row["by_hand"].values()), name
        for share in (row["claimed"], row["truth"], row["ours"]):
            assert (share["accuracy"] * found["images"]) == pytest.approx(
                round(share["accuracy"] * found["images"])
            )
