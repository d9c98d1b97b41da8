"""What is said about cells under the published ones follows from the numbers."""

from __future__ import annotations

from memory_defense.paper.printed.shortfall import REASONS, SEE_CW, Gap, explained

CLEAN = Gap("Clean", 93.0, 89.0)


def test_nothing_is_said_within_five_points() -> None:
    assert explained("A", "comdefend", "cpu", CLEAN, [Gap("PGD 25/255", 60.0, 55.0), Gap("CW", 50.0, 60.0)]) is None


def test_the_widest_gap_is_named_and_what_of_it_is_missing_without_an_attack() -> None:
    said = explained("A", "comdefend", "cpu", CLEAN, [Gap("FGSM 9/255", 89.0, 80.0), Gap("BIM 9/255", 70.0, 49.5)])
    assert said is not None
    assert said.startswith(
        "A, under the attack of its own protocol: 20.5 points under the published number for BIM"
    )
    assert "4.0 under it without any attack" in said
    assert "two processor cores" in said


def test_a_classifier_without_a_defense_is_not_excused_by_its_size() -> None:
    said = explained("A", "resnet-benign", "cpu", Gap("Clean", 93.0, 92.9), [Gap("PGD 25/255", 59.0, 0.2)])
    assert said is not None
    assert REASONS["resnet-benign"] in said
    assert "without any attack" not in said
    assert "cores" not in said


def test_carlini_wagner_is_explained_apart_unless_the_clean_gap_explains_it() -> None:
    said = explained("A", "memory-defense", "cpu", CLEAN, [Gap("PGD 25/255", 89.8, 90.0), Gap("CW", 89.3, 60.6)])
    assert said == (
        f"A, under the attack of its own protocol: 28.7 points under the published number for CW, {SEE_CW}."
    )
    said = explained("A", "memory-defense", "cpu", Gap("Clean", 92.0, 74.0), [Gap("CW", 91.0, 74.0)])
    assert said is not None
    assert said.endswith("17.0 points under the published number for CW, 18.0 under it without any attack.")


def test_no_reason_is_made_up_at_another_scale() -> None:
    said = explained("A", "comdefend", "paper", None, [Gap("PGD 25/255", 60.0, 40.0)])
    assert said is not None
    assert said.endswith("no reason is known.")


def test_an_attack_is_not_blamed_for_what_is_missing_without_it() -> None:
    said = explained("A", "memory-defense", "cpu", Gap("Clean", 92.0, 74.0), [Gap("BIM 16/255", 86.9, 68.2)])
    assert said is not None
    assert REASONS["memory-defense"] not in said
    assert "two processor cores" in said
