"""Suites and attacks in one line each, as ``memdef attacks`` lists them; torch is not needed."""

from __future__ import annotations

SUITES_IN_WORDS = {
    "fast": "ours, the default: 20 steps on the margin, then APGD-T, PGD with restarts and Square on those nearest",
    "standard": "AutoAttack as published, also called autoattack: APGD-CE, APGD-T, FAB-T, Square of 5,000 queries",
    "rand": "AutoAttack for a model that draws at random: gradients are averaged over 20 draws",
    "brief": "fast with 500 queries and 4 target classes, for a demonstration",
    "glimpse": "10 steps on the margin and nothing else, for a model that takes seconds for an image",
}
"""Every suite of `attacks.suites.SUITES`."""

ATTACKS_IN_WORDS = {
    "fgsm": "one step along the gradient's signs (Goodfellow et al. 2015)",
    "rand-fgsm": "a random step, then FGSM (Tramer et al. 2018)",
    "bim": "10 steps from the clean image (Kurakin et al. 2017)",
    "pgd": "40 steps from a random start (Madry et al. 2018)",
    "pgd-t": "PGD towards each of the 9 likeliest wrong classes (Gowal et al. 2019)",
    "gama": "PGD that first leaves the clean answer in any direction (Sriramanan et al. 2020)",
    "cw": "smallest L2 change by Adam (Carlini & Wagner 2017)",
    "ddn": "smallest L2 change, norm and direction in turn (Rony et al. 2019)",
    "fmn": "smallest change in either norm (Pintor et al. 2021)",
    "fab-t": "smallest change towards each of 9 classes (Croce & Hein 2020)",
    "apgd": "PGD that chooses its step sizes, on the cross-entropy (Croce & Hein 2020)",
    "apgd-t": "the same towards each of the 9 likeliest wrong classes, on the targeted DLR loss",
    "square": "5,000 queries for logits, no gradient (Andriushchenko et al. 2020)",
    "hop-skip-jump": "5,000 queries for predicted labels, no gradient (Chen et al. 2020)",
    "autoattack": "alone the suite standard; in a list, one attack that runs its four parts in turn",
}
"""Every attack of `attacks.ATTACKS`."""

FEW_CLASSES = (
    "With 2 or 3 classes the margin stands in for the DLR loss, which needs 3, and 4 towards a class; the record\n"
    "says so. Where there are fewer wrong classes than targets, all of them are targets."
)
