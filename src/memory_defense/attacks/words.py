"""Suites and attacks in one line each, as ``memdef attacks`` lists them; torch is not needed."""

from __future__ import annotations

SUITES_IN_WORDS = {
    "fast": "the default: 20 PGD steps on the margin, then APGD-T, PGD with restarts and Square on near survivors",
    "standard": "AutoAttack as published, also called autoattack: APGD-CE, APGD-T, FAB-T, Square of 5,000 queries",
    "rand": "AutoAttack for a randomised model: gradients are averaged over 20 draws",
    "brief": "fast with a search of 500 queries, for a demonstration",
    "glimpse": "only 10 PGD steps on the margin: a first look, or for a model that needs seconds for each image",
}
"""Every suite of `attacks.suites.SUITES`."""

ATTACKS_IN_WORDS = {
    "fgsm": "one step along the sign of the gradient (Goodfellow et al. 2015)",
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
    "square": "asks for logits 5,000 times, uses no gradient (Andriushchenko et al. 2020)",
    "nes": "asks for logits 5,000 times, follows the gradient that they make (Ilyas et al. 2018)",
    "hop-skip-jump": "asks for predicted labels 5,000 times, uses no gradient (Chen et al. 2020)",
    "autoattack": "alone: the suite standard; in a list: one attack that runs the four parts of standard in turn",
}
"""Every attack of `attacks.ATTACKS`."""

FEW_CLASSES = (
    "The DLR loss needs 3 classes, and 4 if targeted; with fewer, the margin (best wrong logit minus right logit)\n"
    "is used instead, and the record says so. If there are fewer wrong classes than targets, all are targets."
)
