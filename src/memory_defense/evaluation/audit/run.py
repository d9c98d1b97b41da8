"""The audit: can these numbers be believed, and what is the defense really doing?

Each check looks at finished outcomes or probes the defense, and says pass, fail or not run with a remedy. The
checks follow Carlini et al. 2019 (On Evaluating Adversarial Robustness), the flags of AutoAttack (Croce & Hein
2020), Zimmermann et al. 2022, and the ways in which a label-fed memory defense can mislead. ``docs/audit.md``
explains every one.
"""

from __future__ import annotations

from memory_defense.contracts import Certificates, Certifying, Defense, Progress, SlotDefense
from memory_defense.evaluation.audit.attacks import ATTACK_CHECKS
from memory_defense.evaluation.audit.behaviour import DEFENSE_CHECKS
from memory_defense.evaluation.audit.binarisation import binarisation as binarisation_test
from memory_defense.evaluation.audit.findings import Check, Doubts, Findings, line
from memory_defense.evaluation.audit.outside import OUTSIDE_CHECKS
from memory_defense.evaluation.audit.probes import PROBES
from memory_defense.evaluation.audit.results import RESULT_CHECKS
from memory_defense.evaluation.audit.unseen import UNSEEN_CHECKS
from memory_defense.evaluation.record import AuditLine
from memory_defense.evaluation.robustness import Evaluation
from memory_defense.foreign import MemoryShortError, ModelError, in_short, out_of_memory
from memory_defense.passes import granules_of
from memory_defense.progress import stage
from memory_defense.randomness import seeded
from memory_defense.wrappers import frozen, restored

CHECKS: dict[str, Check] = {
    **RESULT_CHECKS,
    **DEFENSE_CHECKS,
    **PROBES,
    "binarisation": binarisation_test,
    **OUTSIDE_CHECKS,
    **UNSEEN_CHECKS,
    **ATTACK_CHECKS,
}
"""Every check of any defense, in the order of the report."""


def audit(
    defense: Defense,
    evaluation: Evaluation,
    *,
    classes: int,
    seed: int,
    binarisation: bool | None = None,
    proofs: Certificates | None = None,
    doubts: Doubts | None = None,
    progress: Progress | None = None,
) -> tuple[AuditLine, ...]:
    """Run every check; those about slots and certificates only where the defense has such.

    The defense's parameters, buffers and modes, and the global random state, are as before afterwards.

    Parameters
    ----------
    defense
        What was evaluated.
    evaluation
        What `robustness.evaluate` returned for it.
    classes
        K, the number of classes of the data.
    seed
        Seed of the checks' own draws.
    binarisation
        Whether to run the binarisation test, which calls the evaluation's attacks once more, on 32 images. None
        runs it for sets of at most 2000 images.
    proofs
        What the defense proves of the images, if it was asked before.
    doubts
        What was found out about it before the first attack and after the last (`Doubts`).
    progress
        Told which check runs.
    """
    known = doubts or Doubts()
    findings = Findings(
        defense, evaluation, classes, seed, binarisation=binarisation, known_proofs=proofs, doubts=known
    )
    with frozen(defense), restored(defense), seeded(seed, "audit"), granules_of(evaluation.granule):
        checks = CHECKS | _slot_checks() if isinstance(defense, SlotDefense) else CHECKS
        checks = checks | _proof_checks() if isinstance(defense, Certifying) else checks
        lines: list[AuditLine] = []
        for number, (name, check) in enumerate(checks.items(), 1):
            with stage(progress, f"auditing, check {number} of {len(checks)}, {name}"):
                lines.append(evaluation.asked.get(name) or _run(name, check, findings))
        return tuple(lines)


def _slot_checks() -> dict[str, Check]:
    from memory_defense.evaluation.audit.slots import SLOT_CHECKS  # few models need it

    return SLOT_CHECKS


def _proof_checks() -> dict[str, Check]:
    from memory_defense.evaluation.audit.proofs import PROOF_CHECKS  # few models need it

    return PROOF_CHECKS


def _run(name: str, check: Check, findings: Findings) -> AuditLine:
    """Return the check's line, or one that says why it could not run: no check loses a finished evaluation."""
    try:
        return check(findings)
    except ModelError as error:
        meaning, remedy = f"not run: {error}", "let the model answer every image in [0, 1]"
    except Exception as error:
        if out_of_memory(error) or isinstance(error, MemoryShortError):
            meaning = "not run: there was not enough memory for what this check looks at"
            remedy = "run the evaluation where there is more memory"
        else:
            meaning = f"not run: the check itself failed ({type(error).__name__}: {in_short(error)})"
            remedy = "evaluate a plainer form of the model, and report what failed here"
    return line(name, None, None, meaning, remedy)
