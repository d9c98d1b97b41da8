"""A record for other programs, read by those programs; and what a notebook shows."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

import memory_defense
from memory_defense.evaluation.comparison import compare
from memory_defense.evaluation.published import published
from memory_defense.evaluation.record import Accuracy, Record
from memory_defense.reporting.card import record_card
from memory_defense.reporting.comparison import comparison_markdown, comparison_tables, write_comparison
from memory_defense.reporting.cyclonedx import bill_of_materials
from memory_defense.reporting.hub import eval_results
from memory_defense.reporting.notebook import comparison_html, record_html

SHIPPED = Path(memory_defense.__file__).parent / "zoo/fashion-mnist/sound/record.json"


@pytest.fixture(params=["shipped", "named"])
def real(request: pytest.FixtureRequest) -> Record:
    found = Record.read(SHIPPED)
    return found if request.param == "shipped" else found.model_copy(update={"defense": 'a "name": {of} <ours>'})


def test_hugging_face_reads_the_evaluation_results(real: Record) -> None:
    yaml = pytest.importorskip("yaml")
    hub = pytest.importorskip("huggingface_hub")
    entries = hub.parse_eval_result_entries(yaml.safe_load(eval_results(real)))
    assert [one.value for one in entries] == pytest.approx(
        [100 * real.clean.accuracy, *(100 * one.accuracy for one in ordered(real))], abs=1e-3
    )
    assert {one.dataset_id for one in entries} == {"zalando-datasets/fashion_mnist"}
    assert len({one.task_id for one in entries}) == len(entries)
    assert entries[0].task_id == "clean-accuracy"
    assert all("95 % interval [" in one.notes for one in entries)
    assert hub.eval_result_entries_to_yaml(entries) == yaml.safe_load(eval_results(real)), "they write the same"


def ordered(record: Record) -> list[Accuracy]:
    worst = sorted(record.worst_case, key=lambda one: (one.norm != "linf", one.epsilon))
    tabled = {(one.norm, one.epsilon) for one in record.cascades}
    return [found for one in worst if (one.norm, one.epsilon) in tabled and (found := one.measured) is not None]


def test_a_dataset_that_the_hub_does_not_know_has_to_be_named(record: Record) -> None:
    own = record.model_copy(update={"dataset": "my photos"})
    with pytest.raises(ValueError, match="--hub-dataset OWNER/NAME"):
        eval_results(own)
    with pytest.raises(ValueError, match="is called OWNER/NAME"):
        eval_results(own, "photos")
    assert 'id: "me/photos"' in eval_results(own, "me/photos")


def test_hugging_face_reads_the_model_card(real: Record) -> None:
    hub = pytest.importorskip("huggingface_hub")
    card = hub.ModelCard(record_card(real))
    name = "fashion-mnist/demo" if real.defense == "memory-defense/sound" else real.defense
    assert card.data.model_name == name
    found = {one.metric_name: one.metric_value for one in card.data.eval_results}
    assert found["accuracy, clean"] == real.clean.accuracy
    assert len(found) == 1 + len(ordered(real))
    assert card.data.datasets == ["zalando-datasets/fashion_mnist"]
    again = hub.ModelCard(str(card))
    assert again.data.to_dict() == card.data.to_dict()
    assert "licen" not in str(card.data.to_dict()), "whose licence it is, the owner says"


@pytest.mark.parametrize("which", ["real", "made up", "bare"])
def test_cyclonedx_is_valid_by_its_own_schema(which: str, record: Record, bare: Record) -> None:
    validation = pytest.importorskip("cyclonedx.validation.json")
    schema = pytest.importorskip("cyclonedx.schema")
    found = {"real": Record.read(SHIPPED), "made up": record, "bare": bare}[which]
    text = bill_of_materials(found)
    assert validation.JsonStrictValidator(schema.SchemaVersion.V1_6).validate_str(text) is None
    broken = text.replace('"lowerBound"', '"lowest"', 1)
    assert validation.JsonStrictValidator(schema.SchemaVersion.V1_6).validate_str(broken) is not None
    assert bill_of_materials(found) == text
    assert bill_of_materials(found.model_copy(update={"images": 999})) != text


def test_every_number_has_its_interval_in_the_bill(record: Record) -> None:
    model = json.loads(bill_of_materials(record.model_copy(update={"defense": "ours"})))["components"][0]
    assert model["name"] == "ours"
    metrics = model["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    assert float(metrics[0]["value"]) == record.clean.accuracy
    for one in metrics:
        ends = one["confidenceInterval"]
        assert float(ends["lowerBound"]) <= float(one["value"]) <= float(ends["upperBound"])
    kinds = [one["type"] for one in metrics]
    assert kinds.count("robust accuracy") == 2
    assert kinds.count("accuracy under attack") == 5
    assert any("slot-following" in line for line in model["modelCard"]["considerations"]["technicalLimitations"])
    assert {"name": "memory-defense:audit:failed", "value": "1"} in model["properties"]


def test_a_notebook_shows_the_name_and_no_markup_of_it(record: Record) -> None:
    named = record.model_copy(update={"defense": "<script>x</script>"})
    shown = record_html(named)
    assert "<script>" not in shown
    assert "&lt;script&gt;" in shown
    assert "93.1" in shown
    assert "1 of 3 checks failed" in shown
    assert "<svg" in shown, "there is a curve"
    assert getattr(named, "_repr_html_")() == shown  # noqa: B009
    ElementTree.fromstring(shown.replace("&nbsp;", " "))
    both = comparison_html(compare(named, record))
    assert "<script>" not in both
    assert getattr(compare(named, record), "_repr_html_")() == both  # noqa: B009
    ElementTree.fromstring(both)


def test_a_curve_is_drawn_through_the_records_points(record: Record) -> None:
    axes = record.plot("linf")
    legend = axes.get_legend()
    assert legend is not None
    assert {text.get_text() for text in legend.get_texts()} == {"fixed slots", "selector", "worst case"}
    for one in record.worst_case:
        if one.norm == "linf" and one.accuracy is not None:
            points = [
                round(float(y), 4)
                for line in axes.get_lines()
                for x, y in zip(*line.get_data(), strict=True)
                if abs(float(x) - one.epsilon) < 1e-6
            ]
            assert round(100 * one.accuracy, 4) in points
    single = record.plot("l2", axes=axes)
    assert single is axes, "it draws where it is told to"
    other = record.plot("l2")
    assert other is not axes
    assert {text.get_text() for text in other.get_legend().get_texts()} == {"clean", "worst case"}
    with pytest.raises(ValueError, match="draw 'linf'"):
        record.plot("l1")


def test_nothing_to_draw_is_said(bare: Record) -> None:
    with pytest.raises(ValueError, match="no radius to draw"):
        bare.plot()


def test_a_comparison_is_written_as_page_and_markdown(record: Record, tmp_path: Path) -> None:
    found = compare(
        record.model_copy(update={"defense": "one"}), record.model_copy(update={"defense": "the <other>"})
    )
    others = published()[:3]
    write_comparison(tmp_path / "page.html", found, others, title="Side by side")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "the &lt;other&gt;" in page
    assert "<other>" not in page
    text = comparison_markdown(found, others)
    for part in ("93.1", "| one |", "Difference to one", others[0].name.replace("_", r"\_"), "73.71"):
        assert part in text
    tables = comparison_tables(found, others)
    assert [table.title for table in tables][:2] == ["Side by side", "Difference to one"]
    assert all(len(row) == len(table.columns) for table in tables for row in table.rows)
    assert all(one.date in tables[2].notes[1] for one in others)
