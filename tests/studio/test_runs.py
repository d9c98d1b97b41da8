"""Runs are found by looking below the root; no name and no link leads out of it."""

import pytest

from memory_defense import zoo
from memory_defense.studio.runs import Runs

TRICKS = (
    "../first",
    "first/../first",
    "/etc",
    "first/",
    "./first",
    "deeper\\second",
    "first\x00",
    "%2e%2e/first",
    "",
    "stages",
    "..",
)


def test_runs_are_found_by_their_path_below_the_root(root) -> None:
    assert list(Runs(root).all()) == ["deeper/second", "first", "stopped"]
    assert Runs(root).find("deeper/second").directory.path == root / "deeper" / "second"


def test_a_root_that_is_a_run_goes_by_its_own_name(root) -> None:
    assert list(Runs(root / "first").all()) == ["first"]


@pytest.mark.parametrize("name", TRICKS)
def test_no_name_leads_elsewhere(root, name) -> None:
    with pytest.raises(ValueError, match="unknown run"):
        Runs(root / "deeper").find(name)


def test_links_out_of_the_root_are_not_followed(own_root) -> None:
    inside = own_root / "inside"
    inside.mkdir()
    (inside / "linked").symlink_to(own_root / "first")
    (inside / "weights").mkdir()
    (inside / "weights" / "manifest.json").write_text((own_root / "first" / "manifest.json").read_text())
    (inside / "weights" / "weights.safetensors").symlink_to(own_root / "first" / "weights.safetensors")
    (inside / "loop").symlink_to(inside)
    assert Runs(inside).all() == {}


def test_hidden_and_very_deep_directories_are_left_alone(own_root) -> None:
    (own_root / "first").rename(own_root / ".first")
    deep = own_root / "a" / "b" / "c"
    deep.mkdir(parents=True)
    (own_root / "stopped").rename(deep / "d")
    assert list(Runs(own_root).all()) == ["deeper/second"]


def test_what_cannot_be_played_with_says_why(own_root) -> None:
    (own_root / "first" / "manifest.json").write_text("{")
    runs = Runs(own_root).all()
    assert "damaged" in runs["first"].fault()
    assert "not finished" in runs["stopped"].fault()
    assert runs["deeper/second"].fault() == ""


def test_several_roots_go_by_their_names_and_by_their_paths_where_those_are_the_same(
    root, own_root, tmp_path
) -> None:
    other = tmp_path / "other"
    own_root.rename(other)
    both = Runs(root, other)
    assert {name.split("/")[0] for name in both.all()} == {root.name, "other"}
    assert both.find("other/first").directory.path == other / "first"
    twin = tmp_path / "deep" / root.name
    twin.parent.mkdir()
    other.rename(twin)
    assert f"{twin.as_posix()}/first" in Runs(root, twin).all()
    assert list(Runs(root, root).all()) == list(Runs(root).all())


def test_what_is_shipped_goes_by_the_name_that_commands_know(root) -> None:
    runs = Runs(root, shipped=zoo.ROOT)
    assert list(runs.all())[-len(zoo.entries()) :] == [f"zoo:{name}" for name in zoo.entries()]
    run = runs.find("zoo:fashion-mnist/sound")
    assert run.shipped
    assert run.directory.path == zoo.located(run.name)
    with pytest.raises(ValueError, match="unknown run"):
        Runs(root).find("zoo:fashion-mnist/sound")


def test_a_root_that_is_no_directory_is_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match="is not a directory"):
        Runs(tmp_path / "nothing")
