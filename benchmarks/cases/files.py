"""Whose file is this: a state that is gone on from, names with dots, an output that cannot be written."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.utils.data import DataLoader, TensorDataset

from cases.case import Case, absent, command
from cases.observe import Observation, Rule, Seen, Verdict, judged, watch
from cases.toolkits import (
    ART,
    AUTOATTACK,
    FOOLBOX,
    OURS,
    STEP,
    STEPS,
    TORCHATTACKS,
    Found,
    authors,
    ours,
    run_authors,
)
from cases.toy import EPSILON, Small, gratings, trained
from memory_defense.contracts import Images, Logits

ONLY_IMAGES = "returns images and writes no file"


class Mendable(nn.Module):
    """Forgets to normalise until it is mended, with the same weights.

    Parameters
    ----------
    mended
        Whether it normalises.
    stop_after
        Stops, as Ctrl-C does, after so many calls, as soon as a state is on disk; None never.
    states
        Pattern of the state's name.
    """

    def __init__(self, *, mended: bool, stop_after: int | None = None, states: str = "") -> None:
        super().__init__()
        self.net = trained()
        self.mended, self.stop_after, self.states, self.calls = mended, stop_after, states, 0

    def forward(self, images: Images) -> Logits:
        """Return the logits (B, K)."""
        self.calls += 1
        if self.stop_after is not None and self.calls > self.stop_after and any(Path().glob(self.states)):
            raise KeyboardInterrupt
        return self.net(images) if self.mended else self.net.features(images)


def _resume(toolkit: str) -> list[Observation]:
    if toolkit not in (AUTOATTACK, OURS):
        return absent(f"{ONLY_IMAGES}, so that nothing is gone on from")
    images, labels = gratings(48)

    def evaluation(model: nn.Module, file: str | None) -> tuple[float, Found]:
        """Return the clean accuracy that the toolkit states, and what is left."""
        if toolkit == AUTOATTACK:
            made = authors(model, EPSILON, version="custom", attacks=["apgd-ce", "apgd-t"])
            made.apgd_targeted.n_target_classes = 3
            place = None if file is None else Path(file)
            found = run_authors(made, images, labels, state_path=place)
            return made.clean_accuracy(images, labels), found
        import memory_defense

        options: dict[str, Any] = {"epsilon": EPSILON, "attacks": "pgd,apgd,apgd-t", "out": file}
        record = memory_defense.evaluate(model, images, labels, **options)
        return record.clean.accuracy, Found(tuple(one.accuracy for one in record.worst_case))

    def gone_on(*, mended: bool) -> Observation:
        file = f"state-{'mended' if mended else 'same'}.json"
        whole = Mendable(mended=mended)
        truth = evaluation(whole, None)
        stopped = Mendable(mended=False, stop_after=whole.calls // 2, states=f"{Path(file).stem}*")
        if watch(lambda: evaluation(stopped, file)).error != "stopped":
            raise RuntimeError("no state was on disk when the evaluation ended, so that it could not be stopped")
        later = Mendable(mended=mended)
        seen = watch(lambda: evaluation(later, file))
        rule = Rule(
            right=lambda got: (
                got[0] == truth[0] and got[1].agrees(truth[1]) and (mended or later.calls < whole.calls)
            ),
            helps=RESUME.helps,
            shown=lambda got: f"{_clean(*got)}, {later.calls} passes; fresh: {_clean(*truth)}, {whole.calls}",
            text=lambda seen: seen.error,
        )
        return judged("forward mended" if mended else "same classifier goes on", seen, rule)

    return [gone_on(mended=True), gone_on(mended=False)]


def _clean(clean: float, found: Found) -> str:
    return f"{100 * clean:.1f} % clean, {found}"


def _dotted(toolkit: str) -> list[Observation]:
    if toolkit in (FOOLBOX, ART):
        return absent(ONLY_IMAGES)
    images, labels = gratings(24)
    model, radii = trained(), (0.03, 0.1)

    def write(epsilon: float) -> None:
        name = f"eps{epsilon:g}"
        if toolkit == TORCHATTACKS:
            _torchattacks_save(model, images, labels, epsilon, name)
        elif toolkit == AUTOATTACK:
            run_authors(_apgd(model, epsilon), images, labels, state_path=Path(name))
        else:
            ours(model, images, labels, epsilon, "pgd", out=name)

    def read(epsilon: float) -> float:
        """Return a number that tells the radii apart: the radius, or what was left standing at it."""
        name = f"eps{epsilon:g}"
        if toolkit == TORCHATTACKS:
            return float((torch.load(name)["adv_inputs"] - images).abs().max())
        if toolkit == AUTOATTACK:
            return sum(json.loads(Path(name).read_text())["_robust_flags"]) / len(labels)
        from safetensors import safe_open

        with safe_open(json.loads(Path(name).read_text())["per_image"], "pt") as file:
            return float(json.loads(file.metadata()["balls"])[0][1])

    def both() -> list[float]:
        for epsilon in radii:
            write(epsilon)
        return [read(epsilon) for epsilon in radii]

    truth = list(radii)
    if toolkit == AUTOATTACK:
        truth = [run_authors(_apgd(model, epsilon), images, labels).robust[0] for epsilon in radii]
    rule = Rule(
        right=lambda got: all(abs(one - two) < 1e-4 for one, two in zip(got, truth, strict=True)),
        helps=DOTTED.helps,
        shown=lambda got: (
            f"eps0.03 holds {got[0]:.3g}, eps0.1 holds {got[1]:.3g}; right: {truth[0]:.3g}, {truth[1]:.3g}"
        ),
        text=lambda seen: seen.error,
    )
    return [judged("", watch(both), rule)]


def _folder(toolkit: str) -> list[Observation]:
    if toolkit in (FOOLBOX, ART):
        return absent(ONLY_IMAGES)
    images, labels = gratings(24)
    model = Mendable(mended=True)
    Path("results").mkdir()
    if toolkit == TORCHATTACKS:
        seen = watch(lambda: _torchattacks_save(model, images, labels, EPSILON, "results"))
    elif toolkit == AUTOATTACK:
        seen = watch(lambda: run_authors(_apgd(model, EPSILON), images, labels, state_path=Path("results")))
    else:
        seen = watch(lambda: ours(model, images, labels, EPSILON, "pgd", out="results"))
    rule = Rule(
        right=lambda _: any(Path("results").iterdir()),
        helps=FOLDER.helps,
        shown=lambda _: f"in it: {', '.join(sorted(one.name for one in Path('results').iterdir())) or 'nothing'}",
        text=lambda seen: seen.error,
    )
    results = [_unless_lost(judged("from Python", seen, rule), seen, model.calls)]
    if toolkit == OURS:
        results.append(_folder_command(images, labels))
    return results


def _unless_lost(found: Observation, seen: Seen, passes: int) -> Observation:
    """Return the observation, or that of a traceback where a refusal came after the work and lost it."""
    if not seen.error or not passes:
        return found
    return replace(
        found, verdict=Verdict.TRACEBACK, observed=f"{found.observed} (after {passes} passes, which are lost)"
    )


def _folder_command(images: Images, labels: torch.Tensor) -> Observation:
    from cases.folders import net_file, write_folder

    for left in Path().glob("results.*"):
        left.unlink()
    write_folder("data", images, labels)
    net_file()
    passes: list[int] = []
    register_module_forward_pre_hook(lambda model, _: passes.append(1) if isinstance(model, Small) else None)
    options = ["--weights", "w.safetensors", "--data", "data", "--epsilon", EPSILON, "--out", "results"]
    seen = command("evaluate", "toynet:build", *options, "--attacks", "pgd")
    rule = Rule(right=lambda _: any(Path("results").iterdir()), helps=FOLDER.helps, text=lambda seen: seen.error)
    return _unless_lost(judged("from the command line", seen, rule), seen, len(passes))


def _apgd(model: nn.Module, epsilon: float) -> Any:
    return authors(model, epsilon, version="custom", attacks=["apgd-ce"])


def _torchattacks_save(model: nn.Module, images: Images, labels: torch.Tensor, epsilon: float, name: str) -> None:
    import torchattacks

    warnings.simplefilter("ignore")
    made = torchattacks.PGD(model, eps=epsilon, alpha=STEP, steps=STEPS)
    made.save(DataLoader(TensorDataset(images, labels), batch_size=8), save_path=name, verbose=False)


RESUME = Case(
    name="resume-after-mend",
    kind="whose file is this",
    situation=(
        "An evaluation is stopped, the classifier's forward is mended with the same weights, and the same call "
        "goes on from the state."
    ),
    oracle=(
        "A fresh evaluation of the mended classifier (clean accuracy and what is left), or a refusal. Control: the "
        "same classifier goes on to what it gives undisturbed, in fewer passes."
    ),
    helps=r"classifier|model|weights|answers|another evaluation",
    ask=_resume,
)
DOTTED = Case(
    name="dotted-out",
    kind="whose file is this",
    situation="Two evaluations write to `eps0.03` and `eps0.1`.",
    oracle="What is read back from each file belongs to its own radius.",
    helps=r"\.json|ending|suffix|extension",
    ask=_dotted,
)
FOLDER = Case(
    name="out-is-a-folder",
    kind="whose file is this",
    situation="The output is the name of a folder that exists.",
    oracle="It goes into the folder, or is refused before the first pass.",
    helps=r"results.*(folder|directory)|(folder|directory).*results",
    ask=_folder,
)
CASES = (RESUME, DOTTED, FOLDER)
