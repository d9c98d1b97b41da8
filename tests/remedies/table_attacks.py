"""Messages of the attacks."""

from remedies.cases import Case

ROOMS = tuple(
    f"attacks/{name}.py"
    for name in (
        *("apgd", "ascent", "carlini_wagner", "closest", "ddn", "fab", "fmn", "gama", "gradient", "hop_skip_jump"),
        *("nes", "pgd_targeted", "square", "targets"),
    )
)

DRAWS = """
from memory_defense.randomness import ImageDraws
draws = ImageDraws.of(0, "attack", 8)

def two_classes(images):
    return net(images)[:, :2]

two = labels % 2

class L1(threat.L2):
    norm = "l1"

unbounded, small = threat.L2(float("inf")), threat.Linf(0.1)
"""


def _case(file: str, says: str, wrong: str, right: str) -> Case:
    """Return a case of an attack in this ball."""
    return Case(f"attacks/{file}.py", says, wrong, right, DRAWS)


def _range(file: str, says: str, wrong: str, right: str) -> Case:
    """Return a case of an attack's setting."""
    return _case(file, says, wrong, f"{right}(net, images, labels, small, draws)")


CASES = (
    _case(
        "apgd",
        "the first step is 2 epsilon long, so the ball must be bounded; give a finite epsilon",
        "Apgd(steps=5)(net, images, labels, threat.L2(float('inf')), draws)",
        "Apgd(steps=5)(net, images, labels, threat.L2(1.5), draws)",
    ),
    _case(
        "apgd",
        "the targeted DLR loss needs at least 4 classes, the model has …; use loss='margin'",
        "ApgdTargeted(steps=5, loss='dlr')(two_classes, images, two, threat.Linf(0.1), draws)",
        "ApgdTargeted(steps=5, «use (loss='margin')»)(two_classes, images, two, threat.Linf(0.1), draws)",
    ),
    _range(
        "apgd",
        "targets are chosen from so many; give at least as many, or None",
        "ApgdTargeted(targets=3, among=2)",
        r"ApgdTargeted(steps=2, targets=3, among=«or (None)»)",
    ),
    _range("apgd", "expected a share of steps in [0, 1]", "Apgd(rho=75)", "Apgd(steps=5, rho=0.75)"),
    _case(
        "ascent",
        "expected a positive number of pixel units or None",
        "Pgd(step_size=0)",
        "Pgd(steps=2, step_size=«or (None)»)(net, images, labels, small, draws)",
    ),
    _range(
        "gradient",
        "expected a share in [0, 1), or None",
        "Pgd(momentum=1)",
        r"Pgd(steps=2, momentum=«or (None)»)",
    ),
    _case(
        "ascent",
        "the ball is unbounded, so step_size=None has no meaning; give a step_size, or a finite epsilon",
        "Pgd(steps=2, random_start=False)(net, images, labels, threat.L2(float('inf')), draws)",
        r"""
        Pgd(steps=2, «give a (\w+),»=0.1, random_start=False)(net, images, labels, threat.L2(float("inf")), draws)
        Pgd(steps=2, random_start=False)(net, images, labels, threat.L2(1.5), draws)
        """,
    ),
    _case(
        "carlini_wagner",
        "expected 'projected' or 'tanh'",
        "CarliniWagner(variant='sigmoid')",
        r"CarliniWagner(variant=«or ('\w+')», steps=2, search_steps=1)(net, images, labels, threat.L2(1), draws)",
    ),
    _case(
        "carlini_wagner",
        "use threat.L2(epsilon), L2(float('inf')) for no limit, or Pgd(loss='margin') for an L-inf ball",
        "CarliniWagner(steps=2, search_steps=1)(net, images, labels, threat.Linf(0.1), draws)",
        r"""
        epsilon, L2 = 0.5, threat.L2
        attack = CarliniWagner(steps=2, search_steps=1)
        attack(net, images, labels, «use (threat.L2\(epsilon\))», draws)
        attack(net, images, labels, «(L2\(float\('inf'\)\))», draws)
        «or (Pgd.*) for an»(net, images, labels, threat.Linf(0.1), draws)
        """,
    ),
    _case(
        "closest",
        "expected a lead in logits of at least 0",
        "Ddn(confidence=-1)",
        r"Ddn(steps=2, confidence=«at least (\d)»)(net, images, labels, threat.L2(1), draws)",
    ),
    _range(
        "closest",
        "expected a share strictly between 0 and 1",
        "FabTargeted(beta=1)",
        "FabTargeted(steps=2, beta=0.9)",
    ),
    _range("closest", "expected a positive number", "Fmn(step_size=0)", "Fmn(steps=2, step_size=0.1)"),
    _case(
        "ddn",
        "use threat.L2(epsilon), L2(float('inf')) for no limit, or Fmn or FabTargeted for an L-inf ball",
        "Ddn(steps=2)(net, images, labels, threat.Linf(0.1), draws)",
        r"""
        epsilon, L2 = 0.5, threat.L2
        Ddn(steps=2)(net, images, labels, «use (threat.L2\(epsilon\))», draws)
        Ddn(steps=2)(net, images, labels, «(L2\(float\('inf'\)\))», draws)
        «or (\w+) or»(steps=2)(net, images, labels, threat.Linf(0.1), draws)
        «or (\w+) for»(steps=2)(net, images, labels, threat.Linf(0.1), draws)
        """,
    ),
    _range(
        "fab",
        "but a step that stops short of the boundary needs no eta below 1",
        "FabTargeted(eta=0.9)",
        r"FabTargeted(steps=2, eta=«below (\d)»)",
    ),
    _range("fmn", "so start above that", "Fmn(gamma=0.0001)", r"Fmn(steps=2, gamma=2 * «falls to (.*), so»)"),
    _case(
        "gama",
        "the first step is 2 epsilon long, so the ball must be bounded; give a finite epsilon",
        "Gama(steps=4)(net, images, labels, threat.L2(float('inf')), draws)",
        "Gama(steps=4)(net, images, labels, threat.L2(1.5), draws)",
    ),
    _range("gama", "0 is the margin alone", "Gama(weight=-1)", r"Gama(steps=4, weight=«(\d) is the»)"),
    _range(
        "gama",
        "expected a share of the steps in (0, 1]",
        "Gama(decay_end=50)",
        "Gama(steps=4, decay_end=0.5)",
    ),
    _range(
        "gradient",
        "but without random_start all of them are the same",
        "Pgd(restarts=3, random_start=False)",
        r"Pgd(steps=2, restarts=3, «without (\w+) all»=True)",
    ),
    _case(
        "gradient",
        "one step cannot reach the surface of an unbounded ball; give it a finite epsilon",
        "Fgsm()(net, images, labels, threat.L2(float('inf')), draws)",
        "Fgsm()(net, images, labels, threat.L2(1.5), draws)",
    ),
    _case(
        "gradient",
        "two steps cannot reach the surface of an unbounded ball; give it a finite epsilon",
        "RandFgsm()(net, images, labels, threat.L2(float('inf')), draws)",
        "RandFgsm()(net, images, labels, threat.L2(1.5), draws)",
    ),
    _range(
        "gradient",
        "alpha is …, expected a positive number of pixel units or None",
        "RandFgsm(alpha=0)",
        "RandFgsm(alpha=«or (None)»)",
    ),
    _case(
        "gradient",
        "a gradient step must be left; give a smaller alpha, or None for half of the radius",
        "RandFgsm(alpha=0.2)(net, images, labels, threat.Linf(0.1), draws)",
        r"""
        RandFgsm(alpha=«of radius ([\d.]+)» / 3)(net, images, labels, threat.Linf(0.1), draws)
        RandFgsm(alpha=«or (None)»)(net, images, labels, threat.Linf(0.1), draws)
        """,
    ),
    _range("nes", "expected a positive share of epsilon", "Nes(reach=0)", "Nes(queries=5, reach=0.5)"),
    _range("nes", "expected a share in [0, 1)", "Nes(momentum=1)", "Nes(queries=5, momentum=0.9)"),
    _case(
        "nes",
        "probes reach a share of the ball's radius, so it must be bounded; give an epsilon",
        "Nes(queries=5)(net, images, labels, threat.L2(float('inf')), draws)",
        "Nes(queries=5)(net, images, labels, threat.L2(1.5), draws)",
    ),
    _range(
        "square", "expected a share of the image in (0, 1]", "Square(p_init=5)", "Square(queries=5, p_init=0.05)"
    ),
    _range(
        "square",
        "expected a positive number, or None to try to the end",
        "Square(patience=0)",
        r"Square(queries=5, patience=«or (None) to»)",
    ),
    _case(
        "square",
        "but squares are defined for …",
        "Square(queries=5)(net, images, labels, L1(5), draws)",
        r"Square(queries=5)(net, images, labels, threat.ball('«defined for (\w+)»', 0.1), draws)",
    ),
    _case(
        "square",
        "squares are drawn on the surface of the ball, so it must be bounded",
        "Square(queries=5)(net, images, labels, threat.L2(float('inf')), draws)",
        "Square(queries=5)(net, images, labels, threat.L2(1.5), draws)",
    ),
    _case(
        "targets",
        "the targeted DLR loss needs at least 4 classes, the model has …",
        "targeted_difference_of_logits_ratio(torch.rand(8, 3), two, two + 1)",
        r"targeted_difference_of_logits_ratio(torch.rand(8, «at least (\d)»), two, two + 1)",
    ),
)
