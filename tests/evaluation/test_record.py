"""Records: round trips, the exact schema, and files that are not records."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory_defense.evaluation.metrics import accuracy
from memory_defense.evaluation.record import (
    AttackResult,
    AuditLine,
    BatchInvariance,
    CascadeRecord,
    CascadeStage,
    CertifiedGate,
    CertifiedResult,
    DetectionResult,
    Provenance,
    Record,
    Separation,
    WorstCase,
)


def make(correct: int = 70, epsilon: float = 0.1) -> Record:
    scored, broken = accuracy(correct, 100).model_dump(), 90 - correct
    return Record(
        defense="memory-defense/sound",
        recipe="fashion-mnist/demo",
        dataset="fashion-mnist",
        images=100,
        clean=accuracy(90, 100),
        attacks=(
            AttackResult(
                attack="pgd",
                knowledge="end-to-end",
                norm="linf",
                epsilon=epsilon,
                median_distance=None,
                forward_passes=41,
                backward_passes=40,
                seconds=1.5,
                parameters={"steps": 40, "loss": "margin", "step_size": None, "random_start": True},
                **scored,
            ),
        ),
        worst_case=(WorstCase(norm="linf", epsilon=epsilon, undetected=accuracy(correct, 100), **scored),),
        cascades=(
            CascadeRecord(
                norm="linf",
                epsilon=epsilon,
                stages=(
                    CascadeStage(
                        attack="apgd-t",
                        knowledge="steering",
                        role="main",
                        tried=90,
                        fooled=broken,
                        first=max(broken - 1, 0),
                        disagreements=0,
                        forward_passes=1000,
                        backward_passes=900,
                        seconds=0.5,
                        parameters={"steps": 40},
                    ),
                ),
            ),
        ),
        per_image="record.images.safetensors",
        audit=(AuditLine(check="c", verdict="not run", value=None, meaning="m", remedy="r"),),
        provenance=Provenance(version="0", git="g", seed=0, device="cpu", torch="2", recipe_sha256="x"),
    )


@settings(deadline=None)
@given(st.integers(0, 90), st.floats(0, 30))
def test_round_trip(tmp_path_factory, correct, epsilon) -> None:
    path = tmp_path_factory.mktemp("record") / "record.json"
    make(correct, epsilon).write(path)
    assert Record.read(path) == make(correct, epsilon)


def detection(fooled: Separation | None) -> DetectionResult:
    return DetectionResult(
        attack="pgd-margin",
        knowledge="silent",
        norm="linf",
        epsilon=0.1,
        fights_flag=True,
        score="disagreement",
        false_alarms=0.01,
        threshold=-0.25,
        calibration_images=5000,
        attacked=Separation(images=90, auroc=0.75, tpr_at_1=0.0, tpr_at_5=1.0, flagged=accuracy(9, 90)),
        fooled=fooled,
        clean_flagged=accuracy(1, 100),
        clean_right=accuracy(89, 100),
        attacked_right=accuracy(12, 100),
        parameters={"steps": 20, "step_size": None},
    )


def test_detection_comes_back_and_old_records_have_none(tmp_path) -> None:
    path, fooled = (
        tmp_path / "r.json",
        Separation(images=3, auroc=0, tpr_at_1=0, tpr_at_5=0, flagged=accuracy(1, 3)),
    )
    whole = make().model_copy(update={"detection": (detection(fooled), detection(None))})
    whole.write(path)
    assert Record.read(path) == whole
    content = json.loads(path.read_text())
    del content["detection"], content["batch_invariance"], content["notes"], content["checksum"]
    path.write_text(json.dumps(content))
    assert Record.read(path) == make()
    content["detection"] = [{**detection(None).model_dump(mode="json"), "false_alarms": 1.0}]
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"detection\.0\.false_alarms"):
        Record.read(path)


@pytest.mark.parametrize("measured", [BatchInvariance(granule=16), BatchInvariance(granule=None, randomised=True)])
def test_what_was_measured_of_batches_comes_back(tmp_path, measured) -> None:
    path = tmp_path / "r.json"
    whole = make().model_copy(update={"batch_invariance": measured})
    whole.write(path)
    assert Record.read(path) == whole
    path.write_text(path.read_text().replace('"granule": ', '"granule": -'))
    with pytest.raises(ValueError, match="is not a record"):
        Record.read(path)


def test_the_schema_is_the_documented_one(tmp_path) -> None:
    make().write(tmp_path / "r.json")
    written = json.loads((tmp_path / "r.json").read_text())
    assert list(written) == [
        "schema", "defense", "recipe", "dataset", "images", "clean", "attacks", "worst_case",
            "cascades", "submissions", "bfloat16", "batch_invariance", "odd_images", "detection",
            "selection", "certified", "certificates", "certificates_sha256",
            "per_image", "per_image_sha256", "notes", "audit", "provenance", "checksum",
    ]  # fmt: skip
    assert written["schema"] == 1
    assert set(written["clean"]) == {"accuracy", "ci95"}
    assert set(written["attacks"][0]) == {
        "attack", "knowledge", "norm", "epsilon", "accuracy", "ci95", "median_distance", "forward_passes",
        "backward_passes", "seconds", "parameters", "disagreements", "note", "tried",
    }  # fmt: skip
    assert set(written["worst_case"][0]) == {"norm", "epsilon", "accuracy", "ci95", "undetected", "tried"}
    assert set(written["audit"][0]) == {"check", "verdict", "value", "meaning", "remedy"}
    assert set(written["provenance"]) == {"version", "git", "seed", "device", "torch", "recipe_sha256"}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"schema": 2}, "schema"),
        ({"images": 0}, "images"),
        ({"surprise": 1}, "surprise"),
        ({"clean": {"accuracy": 1.5, "ci95": [0, 1]}}, "clean.accuracy"),
        (
            {"worst_case": [{"norm": "l2", "epsilon": 0, "tried": 0, "accuracy": 1.0, "ci95": [0.9, 1]}]},
            "worst_case.0",
        ),
        (
            {"worst_case": [{"norm": "l2", "epsilon": 0, "accuracy": None, "ci95": [0.9, 1]}]},
            "worst_case.0",
        ),
        (
            {"audit": [{"check": "c", "verdict": "maybe", "value": 0, "meaning": "", "remedy": ""}]},
            "audit.0.verdict",
        ),
    ],
)
def test_damaged_records_name_the_field(tmp_path, change, field) -> None:
    path = tmp_path / "r.json"
    make().write(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=rf"r\.json is not a record of schema 1: {field}"):
        Record.read(path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\x80\x04", b'{"schema": 1}', b"NaN"])
def test_other_files_are_refused(tmp_path, content) -> None:
    path = tmp_path / "r.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is not a record"):
        Record.read(path)


def test_nan_is_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        AuditLine(check="c", verdict="pass", value=float("nan"), meaning="", remedy="")


def certified(epsilon: float, right: int, gated: int, wrong: int = 0) -> CertifiedResult:
    gate = CertifiedGate(
        epsilon=epsilon,
        right_or_flagged=accuracy(gated, 10),
        clean_accepted=accuracy(gated + wrong, 10),
        clean_wrong_accepted=accuracy(wrong, 10),
    )
    return CertifiedResult(
        **accuracy(right, 10).model_dump(),
        method="smoothing",
        norm="l2",
        epsilon=epsilon,
        images=10,
        n=1000,
        alpha=0.001,
        sigma=0.25,
        seconds=1.5,
        gate=gate,
    )


def test_certificates_come_back_and_old_records_have_none(tmp_path) -> None:
    path, whole = tmp_path / "r.json", make().model_copy(update={"certified": (certified(0.5, 6, 8, 1),)})
    whole.write(path)
    assert Record.read(path) == whole
    content = json.loads(path.read_text())
    for name in ("certified", "certificates", "certificates_sha256", "checksum"):
        del content[name]
    path.write_text(json.dumps(content))
    assert Record.read(path) == make()


@pytest.mark.parametrize(
    ("results", "said"),
    [
        ((certified(0.25, 5, 8), certified(0.5, 6, 8)), "more than within the smaller 0.25"),
        ((certified(0.5, 8, 6),), "less than what is certified without a gate"),
        ((certified(0.5, 6, 8).model_copy(update={"accuracy": 0.65}),), "not a whole number of 10 images"),
        (
            (certified(0.5, 6, 8).model_copy(update={"gate": certified(0.5, 6, 8, 1).gate.model_copy(  # pyright: ignore
                update={"clean_accepted": accuracy(8, 10)})}),),
            "neither right nor wrong",
        ),
    ],
)  # fmt: skip
def test_certificates_that_contradict_each_other_are_refused(tmp_path, results, said) -> None:
    path = tmp_path / "r.json"
    make().model_copy(update={"certified": results}).write(path)
    with pytest.raises(ValueError, match=said):
        Record.read(path)
