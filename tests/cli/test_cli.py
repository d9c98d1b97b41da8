"""The command line as its users see it: exit statuses, messages, the help, and the whole toy demo."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from memory_defense.cli import machine
from memory_defense.cli.arguments import radius
from memory_defense.cli.evaluate import EvaluateArguments
from memory_defense.cli.evaluate_checks import narrowed
from memory_defense.cli.machine import Machine
from memory_defense.data.images import load_dataset
from memory_defense.data.sources import DataNotFoundError
from memory_defense.evaluation.record import Record
from memory_defense.recipes.registry import recipe

COMMANDS = (
    "demo",
    "train",
    "evaluate",
    "predict",
    "reproduce",
    "report",
    "export",
    "convert",
    "harden",
    "queue",
    "data",
    "recipes",
    "studio",
)


def memdef(*arguments: str | Path, **options) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "memory_defense", *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "120"}
    return subprocess.run(
        command, capture_output=True, text=True, env=environment, timeout=300, check=False, **options
    )


@pytest.fixture(scope="module")
def data_present() -> None:
    try:
        load_dataset("fashion-mnist")
    except DataNotFoundError:
        pytest.skip("no source of Fashion-MNIST here")


@pytest.fixture(scope="module")
def run(tmp_path_factory, data_present) -> Path:
    out = tmp_path_factory.mktemp("demo") / "run"
    done = memdef("demo", "--scale", "tiny", "--out", out)
    assert done.returncode == 0, done.stderr
    for expected in ("Headline", "fixed slots", "worst case", "checks failed", f"report: {out}/report.html"):
        assert expected in done.stdout.replace("\n", "") + done.stdout
    return out


def test_the_demo_leaves_everything_it_promises(run) -> None:
    for name in (
        "record.json",
        "report.html",
        "weights.safetensors",
        "undefended.safetensors",
        "paper/record.json",
    ):
        assert (run / name).stat().st_size > 0
    page = (run / "report.html").read_text()
    assert 'href="record.json"' in page
    assert 'href="paper/record.json"' in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    record = Record.read(run / "record.json")
    assert record.images == 20
    assert record.provenance.seed == 0


def test_evaluate_narrows_and_report_renders(run, tmp_path) -> None:
    out = tmp_path / "narrow.json"
    narrowed = ("--attacks", "pgd", "--knowledge", "selector", "--epsilon", "8/255", "--images", "10")
    done = memdef("evaluate", run, *narrowed, "--out", out)
    assert done.returncode == 0, done.stderr
    record = Record.read(out)
    assert [(one.attack, one.knowledge, one.epsilon) for one in record.attacks] == [("pgd", "selector", 8 / 255)]
    assert record.images == 10
    page = tmp_path / "page.html"
    assert memdef("report", out, run, "--out", page).returncode == 0
    assert "8/255" in page.read_text()
    as_text = memdef("report", out, "--markdown")
    assert as_text.returncode == 0
    assert "| " in as_text.stdout


def test_a_partial_evaluation_leaves_the_record_alone(run) -> None:
    before = (run / "record.json").read_bytes()
    done = memdef("evaluate", run, "--knowledge", "fixed-slots", "--attacks", "fgsm", "--images", "5")
    assert done.returncode == 0, done.stderr
    assert (run / "record.json").read_bytes() == before
    assert Record.read(run / "partial.json").images == 5


def test_the_cascade_keeps_to_the_knowledge_asked_for(run, tmp_path) -> None:
    asked = ("--attacks", "pgd,brief", "--knowledge", "selector", "--epsilon", "0.1", "--images", "10")
    done = memdef("evaluate", run, *asked, "--out", tmp_path / "r.json")
    assert done.returncode == 0, done.stderr
    record = Record.read(tmp_path / "r.json")
    assert {one.knowledge for one in record.attacks} == {"selector"}
    stages = [stage for cascade in record.cascades for stage in cascade.stages]
    assert stages
    assert {stage.knowledge for stage in stages} == {"selector"}


def test_train_refuses_to_overwrite_and_resumes(run, tmp_path, data_present) -> None:
    out = tmp_path / "mine"
    quick = ("--out", out, "--train-images", "100", "--seed", "5")
    first = memdef("train", "fashion-mnist/tiny", *quick)
    assert first.returncode == 0, first.stderr
    assert "memdef evaluate" in first.stdout
    again = memdef("train", "fashion-mnist/tiny", *quick)
    assert again.returncode == 2
    assert "--resume" in again.stderr
    assert memdef("train", "fashion-mnist/tiny", *quick, "--resume").returncode == 0


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_a_stopped_training_goes_on(tmp_path, data_present, kind) -> None:
    out = tmp_path / "run"
    arguments = ["train", "fashion-mnist/tiny", "--out", str(out), "--train-images", "3000"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, "-m", "memory_defense", *arguments], stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        deadline = time.monotonic() + 120
        while not list(out.glob("stages/*.state.safetensors")):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(kind)
        message = process.communicate()[1]
    if kind != signal.SIGKILL:
        assert process.returncode == 128 + kind
        assert "Traceback" not in message
        assert "--resume" in message
    assert not (out / "weights.safetensors").exists()
    done = memdef(*arguments, "--resume")
    assert done.returncode == 0, done.stderr
    assert (out / "weights.safetensors").exists()


def test_help_is_useful_and_needs_no_torch() -> None:
    for command in COMMANDS:
        done = memdef(command, "--help")
        assert done.returncode == 0
        assert len(done.stdout.splitlines()) > 5
    code = "import sys; from memory_defense.cli.app import app; assert 'torch' not in sys.modules, 'slow help'"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert memdef("--version").stdout.strip() == "0.1.0"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "fashion-mnist/dmeo", "--out", "x"), "did you mean 'fashion-mnist/demo'"),
        (("train", "fashion-mnist/tiny", "--out", "x", "--device", "cuda"), "--device cpu"),
        (("train", "fashion-mnist/tiny", "--out", "x", "--device", "gpu"), "unknown device"),
        (("train", "fashion-mnist/tiny", "--out", "x", "--data-dir", "nowhere"), "nowhere"),
        (("evaluate", "nothing-here"), "is not a run directory"),
        (("report", "nothing-here"), "nothing-here"),
        (("data", "fashion-minst"), "did you mean 'fashion-mnist'"),
        (("demo", "--scale", "huge"), "unknown scale"),
        (("demo", "--seed", "-1"), "--seed"),
        (("nonsense",), "nonsense"),
    ],
)
def test_mistakes_get_one_message_and_write_nothing(tmp_path, arguments, message) -> None:
    done = memdef(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_closed_pipe_is_no_crash() -> None:
    command = f"{sys.executable} -m memory_defense recipes | true"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr


def test_lists() -> None:
    listed = memdef("recipes").stdout
    assert recipe("fashion-mnist/demo").summary in listed


def test_radius_is_written_as_people_write_it() -> None:
    assert radius("8/255") == 8 / 255
    assert radius("0.1") == 0.1
    for text, reason in (("8", "8/255"), ("a", "not a number"), ("1/0", "not a number"), ("-1/255", "must be in")):
        with pytest.raises(ValueError, match=reason):
            radius(text)


def test_selection_checks_its_names() -> None:
    plan = recipe("fashion-mnist/demo").evaluation
    chosen = narrowed(plan, EvaluateArguments(target="run", attacks=["pgd"], epsilon=["8/255"], images=3))
    assert (list(chosen.attacks), chosen.images, chosen.linf[0].epsilon) == (["pgd"], 3, 8 / 255)
    assert chosen.curve is None
    assert narrowed(plan, EvaluateArguments(target="run")) == plan
    with pytest.raises(ValueError, match="did you mean 'pgd"):
        narrowed(plan, EvaluateArguments(target="run", attacks=["pdg"]))
    joined = narrowed(plan, EvaluateArguments(target="run", attacks=["fast,cw", "hop-skip-jump"]))
    assert (list(joined.attacks), list(joined.white_box), list(joined.minimum_norm)) == ([], [], ["cw"])
    assert joined.suite == "fast,hop-skip-jump"
    row = narrowed(recipe("fashion-mnist/cpu/magnet").evaluation, EvaluateArguments(target="run", attacks=["fgsm"]))
    assert (list(row.attacks), list(row.unbounded), row.suite) == (["fgsm"], [], None)
    with pytest.raises(ValueError, match="cw works in l2 balls only, and none is evaluated here"):
        narrowed(recipe("fashion-mnist/strong").evaluation, EvaluateArguments(target="run", attacks=["cw"]))


def test_machine_refuses_what_is_not_there(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="no CUDA device"):
        Machine(device="cuda:0").ready()
    assert Machine(device="cpu").ready() == torch.device("cpu")


def test_an_unknown_knowledge_is_named(run) -> None:
    done = memdef("evaluate", run, "--knowledge", "end2end", "--out", run / "never.json")
    assert done.returncode == 2
    assert "'end-to-end'" in done.stderr
    assert not (run / "never.json").exists()


def test_a_record_that_is_none(tmp_path) -> None:
    path = tmp_path / "r.json"
    path.write_text(json.dumps({"schema": 1}))
    done = memdef("report", path)
    assert done.returncode == 2
    assert "is not a record of schema 1" in done.stderr


def test_reproduce_makes_rows_at_once_and_prints_their_table(data_present, tmp_path: Path) -> None:
    rows = ("--row", "target-classifier", "--row", "resnet-offline")
    done = memdef("reproduce", "table5", *rows, "--scale", "tiny", "--processes", "2", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    for row in ("target-classifier", "resnet-offline"):
        assert f"fashion-mnist/tiny/{row}: attacks" in done.stderr
        record = json.loads((tmp_path / f"results/tiny/table5/fashion-mnist/{row}.json").read_text())
        assert record["provenance"]["device"].startswith("cpu, 1 threads, ")
    assert (tmp_path / "results/tiny/table5.md").is_file()


@pytest.mark.parametrize(("cores", "threads", "at_once", "share"), [(8, None, 8, 2), (8, 2, 4, 2), (1, 4, 1, 4)])
def test_processes_share_the_cores(monkeypatch, cores: int, threads: int | None, at_once: int, share: int) -> None:
    monkeypatch.setattr(machine, "_cores", lambda: cores)
    here = Machine(threads=threads)
    assert (here.at_once(), here.share(3)) == (at_once, share)
