"""A worst case never stands where nothing was tried: in no record, table, sentence, page or card."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import memory_defense
from memory_defense.attacks import Pgd, Square
from memory_defense.defenses.undefended import Undefended
from memory_defense.evaluation.cases import Case
from memory_defense.evaluation.record import Record, WorstCase
from memory_defense.evaluation.robustness import evaluate as attack_all
from memory_defense.reporting import Section
from memory_defense.reporting.card import CardSubject, model_card
from memory_defense.reporting.figures import accuracy_figure
from memory_defense.reporting.html import write_report
from memory_defense.reporting.latex import latex
from memory_defense.reporting.rows import answer, curve_norms
from memory_defense.reporting.summary import best_attack
from memory_defense.reporting.tables import headline_table, matrix_table, results_table
from memory_defense.reporting.text import markdown
from memory_defense.threat import Linf
from memory_defense.workflows.harden_words import Measured, paragraph

COUNT = 6


def problem() -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 4))
    images = torch.rand(COUNT, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return model, images, model(images).argmax(1)


def nothing_right(**options: object) -> Record:
    model, images, labels = problem()
    return memory_defense.evaluate(model, images, (labels + 1) % 4, epsilon=0.1, **options)


def no_gradient(**options: object) -> Record:
    model, images, labels = problem()
    asked = {"attacks": "pgd,apgd-t,fab-t"} | options
    return memory_defense.evaluate(lambda points: model(points.detach()), images, labels, epsilon=0.1, **asked)


REASONS = {"nothing right": nothing_right, "no gradient": no_gradient}


@pytest.fixture(scope="module", params=REASONS)
def untried(request) -> Record:
    return REASONS[request.param]()


@pytest.fixture(scope="module")
def tried() -> Record:
    model, images, labels = problem()
    labels[0] = (labels[0] + 1) % 4  # one of them is wrong from the start
    return memory_defense.evaluate(model, images, labels, epsilon=0.1, attacks="pgd,square")


def test_the_record_says_null(untried, tmp_path) -> None:
    (worst,) = untried.worst_case
    assert (worst.accuracy, worst.ci95, worst.undetected, worst.tried, worst.measured) == (
        None,
        None,
        None,
        0,
        None,
    )
    untried.write(tmp_path / "r.json")
    assert json.loads((tmp_path / "r.json").read_text())["worst_case"][0]["accuracy"] is None
    assert Record.read(tmp_path / "r.json") == untried
    assert "linf 0.1: no attack ran on a correctly classified image, so no worst case is known" in untried.notes
    assert {stage.tried for stage in untried.cascades[0].stages} == {0}


def test_what_was_tried_is_counted(tried) -> None:
    (worst,) = tried.worst_case
    assert worst.tried == COUNT - 1
    assert worst.measured is not None
    assert worst.accuracy == worst.measured.accuracy < tried.clean.accuracy
    assert not any("no attack ran" in note for note in tried.notes)


def test_one_attack_that_can_run_is_enough() -> None:
    record = no_gradient(attacks="pgd,square")
    stages = {stage.attack: stage.tried for stage in record.cascades[0].stages}
    assert stages == {"pgd": 0, "square": COUNT}
    assert record.worst_case[0].tried == COUNT
    assert record.worst_case[0].accuracy is not None


def test_a_table_of_attacks_that_could_not_run_says_so_for_each() -> None:
    model, images, labels = problem()
    defense = Undefended(lambda points: model(points.detach()))
    cases = [
        Case(name=name, attack=attack, knowledge="end-to-end", ball=Linf(0.1))
        for name, attack in {"pgd": Pgd(steps=3), "square": Square(queries=20)}.items()
    ]
    found = attack_all(defense, images, labels, cases)
    assert [one.result.tried for one in found.outcomes] == [0, COUNT]
    alone = attack_all(defense, images, labels, cases[:1])
    assert alone.worst_cases()[0].measured is None
    record = memory_defense.evaluate(model, images, labels, epsilon=0.1, attacks="glimpse")
    both = record.model_copy(update={"attacks": tuple(one.result for one in found.outcomes)})
    for table in (matrix_table(both), results_table(both)):
        shown = {str(row[0]): [str(cell) for cell in row] for row in table.rows}
        assert "not tried" in shown["PGD-3"]
        assert "not tried" not in shown["Square"]
        assert any("no attack ran on a correctly classified image" in note for note in table.notes)


def test_a_smaller_ball_of_the_norm_is_no_try_in_a_larger_one_but_what_broke_there_counts() -> None:
    model, images, labels = problem()
    with torch.no_grad():
        sure = model(images).topk(2).values.diff().abs().squeeze(1).argsort()  # the least sure first
    small = Case(name="pgd", attack=Pgd(steps=5), knowledge="end-to-end", ball=Linf(0.02))
    blind = Case(name="blind", attack=Pgd(steps=5), knowledge="end-to-end", ball=Linf(0.1))
    found = attack_all(Undefended(model), images[sure], labels[sure], [small, blind])
    broken_small = int((found.broken[0].breaker >= 0).sum())
    found.state.cases[1].ran = 0  # as if it had met no gradient
    found.state.broken[1].breaker[found.state.broken[1].breaker == 1] = -1
    by_radius = {one.epsilon: one for one in found.worst_cases()}
    assert by_radius[0.02].tried == COUNT
    assert by_radius[0.1].tried == broken_small


def test_no_reader_meets_a_number(untried, tried, tmp_path) -> None:
    section, other = Section("mine", untried), Section("another", tried)
    head = headline_table([section, other])
    assert [str(cell) for cell in head.rows[0]][-1] == "not tried"
    assert str(head.rows[1][-1]).startswith(f"{100 * tried.worst_case[0].accuracy:.1f} [")
    assert any(note.startswith("not tried: ") for note in head.notes)
    assert not any(note.startswith("not tried") for note in headline_table([other]).notes)
    assert "nothing is known about the worst case" in answer(section)
    assert "in the worst case" not in answer(section)
    for text in (markdown([section]), latex([section])):
        assert "not tried" in text
    write_report(tmp_path / "r.html", [section, other], title="t")
    assert "not tried" in (tmp_path / "r.html").read_text()
    assert "ran on any image" in best_attack(untried)
    card = model_card(CardSubject(name="mine", channels=1, size=4, classes="abcd", parts={}), untried)
    assert "No attack ran on it, so nothing is known about its robustness." in card
    assert "worst case L-inf" not in card.split("---")[1]


def test_points_of_a_curve_that_were_not_tried_are_not_drawn(tried) -> None:
    model, images, labels = problem()
    cases = [
        Case(name="pgd", attack=Pgd(steps=3), knowledge="end-to-end", ball=Linf(radius), purpose="curve")
        for radius in (0.05, 0.1)
    ]
    found = attack_all(Undefended(model), images, labels, cases)
    results = [one.result for one in found.outcomes]
    drawn = tried.model_copy(update={"attacks": tuple(results)})
    assert curve_norms(drawn) == ("linf",)
    accuracy_figure(drawn, "linf", prefix="p")
    blank = drawn.model_copy(update={"attacks": tuple(one.model_copy(update={"tried": 0}) for one in results)})
    assert curve_norms(blank) == ()
    zero = {"tried": 0, "accuracy": 0.0}  # of images that are all wrong when clean; that is no claim
    wrong = drawn.model_copy(update={"attacks": tuple(one.model_copy(update=zero) for one in results)})
    assert curve_norms(wrong) == ("linf",)
    worst = (WorstCase(norm="linf", epsilon=0.1, accuracy=None, ci95=None, tried=0),)
    assert "worst case" not in accuracy_figure(drawn.model_copy(update={"worst_case": worst}), "linf", prefix="p")


@pytest.mark.parametrize("blank", ["original", "selector", "defense"])
def test_hardening_claims_nothing_about_what_was_not_tried(untried, tried, blank) -> None:
    records = {"original": tried, "selector": tried, "defense": tried}
    whole = Measured(classifier="net:build", fine_tuned=True, mixed=False, flag_score="none", **records)
    assert "not known" not in paragraph(whole)
    said = paragraph(replace(whole, **{blank: untried}))
    assert "its worst case is not known, as " in said
    assert "without both worst cases nothing can be said about robustness" in said or blank == "selector"
    why = "none of them was left to attack" if untried.clean.accuracy == 0 else "no attack could run on them"
    assert why in said
    assert "None" not in said


def test_records_from_before_it_was_counted_say_what_they_said() -> None:
    record = Record.read(Path(__file__).parents[2] / "docs" / "results" / "demo" / "paper.json")
    assert all(one.tried is None and one.measured is not None for one in record.worst_case)
    assert "not tried" not in str(headline_table([Section("demo", record)]))
