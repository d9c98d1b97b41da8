"""Messages about suites, attacks and models with few classes."""

from remedies.cases import Case

ROOMS = ("attacks/suites.py", "attacks/autoattack.py", "evaluation/fitting.py", "losses.py")

TWO = """
two = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
labels = two(images).argmax(1)

def two_classes(attack):
    from memory_defense.randomness import ImageDraws

    return attack(two, images, labels, threat.Linf(0.1), ImageDraws.of(0, "a", 8))
"""

CASES = (
    Case(
        "attacks/suites.py",
        "expected names of suites and attacks, such as 'fast' or ['pgd', 'square']",
        "evaluate(net, images, labels, epsilon=0.1, attacks={'pgd'})",
        r"""
        for given in («such as (.*) or», «or (\[.*\])»):
            evaluate(net, images, labels, epsilon=0.1, attacks=given)
        """,
    ),
    Case(
        "attacks/suites.py",
        "which names none; give 'fast', or others joined by commas",
        "evaluate(net, images, labels, epsilon=0.1, attacks=[])",
        r"evaluate(net, images, labels, epsilon=0.1, attacks=«give (.*),»); parts_of('pgd,fgsm')",
    ),
    Case(
        "attacks/suites.py",
        "attacks holds …, expected names, such as ['pgd', 'square'] or 'fast'",
        "parts_of(['pgd', 3])",
        r"evaluate(net, images, labels, epsilon=0.1, attacks=«such as (.*) or»)",
    ),
    Case(
        "attacks/suites.py",
        "a name in attacks is empty: …; write …",
        "evaluate(net, images, labels, epsilon=0.1, attacks='fgsm,,pgd')",
        r"evaluate(net, images, labels, epsilon=0.1, attacks=«write (.*)»)",
    ),
    Case(
        "attacks/suites.py",
        "balls only, and none is evaluated here; leave it out, or give others, such as …",
        "evaluate(net, images, labels, epsilon=0.1, attacks='cw,fgsm')",
        r"""
        evaluate(net, images, labels, epsilon=0.1, attacks='fgsm')
        evaluate(net, images, labels, epsilon=0.1, attacks='«such as ([^,]+),»')
        """,
    ),
    Case(
        "attacks/autoattack.py",
        "version … needs at least … classes, the model has …; use version=…",
        "two_classes(AutoAttack(steps=2, targets=1, queries=2))",
        r"two_classes(AutoAttack(«use (version=.*)», steps=2, targets=1, queries=2))",
        given=TWO,
    ),
    Case(
        "attacks/autoattack.py",
        "leave it out",
        "AutoAttack(version='rand', queries=5)",
        "AutoAttack(version='rand')",
    ),
    Case(
        "evaluation/fitting.py",
        "does not work in … balls; give it one of another norm, or leave it out",
        "fitted([Case(name='cw', attack=CarliniWagner(), knowledge='end-to-end', ball=threat.Linf(0.1))], 4)",
        "fitted([Case(name='cw', attack=CarliniWagner(), knowledge='end-to-end', ball=threat.L2(0.1))], 4)",
    ),
    Case(
        "losses.py",
        "the DLR loss needs at least 3 classes, the model has …; use the loss 'margin'",
        "two_classes(Pgd(loss='dlr', steps=1))",
        r"two_classes(Pgd(loss=«use the loss ('.*')», steps=1))",
        given=TWO,
    ),
    Case(
        "checks.py",
        "logit for each image, but a class is the largest of at least 2; if its sign decides",
        "evaluate(one, images, labels, epsilon=0.1)",
        r"""
        def mended(points):
            z = one(points)
            «let (z = .*) be that»
            return «answer with (.*), whose»

        assert torch.allclose(mended(images).softmax(1)[:, 1:], one(images).sigmoid())
        evaluate(mended, images, mended(images).argmax(1), epsilon=0.1, attacks="pgd")
        """,
        given="one = nn.Sequential(nn.Flatten(), nn.Linear(16, 1)); labels = (one(images) > 0).long()[:, 0]",
    ),
    Case(
        "workflows/assess.py",
        "none of the attacks that were asked for is tried with the knowledge …",
        "memdef('memdef evaluate run --attacks square --knowledge selector --images 2')",
        """
        memdef('memdef evaluate run --attacks square --images 2')
        memdef('memdef evaluate run --attacks pgd --knowledge selector --images 2')
        """,
        given="run()",
    ),
    Case(
        "losses.py",
        "needs … classes, and the model has …; leave it out, or give another attack",
        "suited('mine', Own(), 2)",
        "suited('other', Pgd(), 2)",
        given="""
class Own:
    loss = "dlr"
""",
    ),
)
