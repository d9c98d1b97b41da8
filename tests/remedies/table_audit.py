"""What the audit advises: each check is made to fail, its remedy is followed, and it passes."""

from remedies.cases import Case

ROOMS = ("evaluation/audit",)

AUDIT = """
from dataclasses import replace
from evaluation.helpers_evaluation import BrightnessDefense, Shift, SlotToy, five_classes, grey, some_images
from memory_defense.defenses.undefended import Undefended
from memory_defense.evaluation.audit.run import audit
from memory_defense.evaluation.options import Options
from memory_defense.evaluation.robustness import Case, evaluate as attack_with
from memory_defense.threat import L2, Linf
levels = [0.3, 0.45, 0.58, 0.66, 0.9, 0.05, 0.7, 0.35]
classes = torch.tensor([0, 0, 1, 1, 1, 0, 1, 0])
plain = BrightnessDefense()
few, many = Pgd(steps=1, step_size=0.01, random_start=False), Pgd(steps=9, step_size=0.01, random_start=False)

def cases(knowledge="end-to-end", epsilon=0.1, purpose="table", norm=Linf, **attacks):
    attacks = attacks or {"fgsm": Fgsm(), "pgd": Pgd(steps=10)}
    return [
        Case(name=name, attack=attack, knowledge=knowledge, ball=norm(epsilon), purpose=purpose)
        for name, attack in attacks.items()
    ]

def curve(*radii, attack=None):
    attack = attack or Pgd(steps=10)
    return [one for radius in radii for one in cases(epsilon=radius, purpose="curve", pgd=attack)]

def line(check, defense, wanted, images=None, labels=None, count=2):
    images, labels = (grey(levels), classes) if images is None else (images, labels)
    evaluation = attack_with(defense, images, labels, wanted, options=Options(seed=0))
    return {one.check: one for one in audit(defense, evaluation, classes=count, seed=0)}[check]

def failing(check, *problem, **more):
    one = line(check, *problem, **more)
    assert one.verdict != "pass", one
    return one.remedy

def passing(check, *problem, **more):
    one = line(check, *problem, **more)
    assert one.verdict == "pass", one

class Front(BrightnessDefense):
    def __init__(self, back):
        super().__init__()
        self.back = back

    def forward(self, images):
        return self.back(super().forward(images), images)

class Random(BrightnessDefense):
    calls = 0

    def forward(self, images):
        self.calls += 1
        return super().forward(images) * (-1.0) ** self.calls

masked = Front(lambda logits, images: logits.round() + 0 * images.flatten(1)[:, :1])
listed = Front(lambda logits, images: nn.functional.one_hot(classes.repeat(9)[: len(images)], 2) + 0 * logits)
"""


def _audit(file: str, says: str, check: str, wrong: str, right: str, given: str = "") -> Case:
    """Return a case of one check: what fails it, and what passes once its remedy is followed."""
    return Case(
        f"evaluation/audit/{file}.py",
        says,
        f"said = failing({check!r}, {wrong})",
        f"passing({check!r}, {right})",
        f"{AUDIT}\n{given}",
    )


HOLDING = """
network = Undefended(five_classes())
seen = some_images()
own = network(seen).argmax(1)
problem = [cases(fgsm=Fgsm()), seen, own]

class Holding(nn.Module):
    def __init__(self, radius):
        super().__init__()
        self.network, self.stored, self.radius = network, seen.clone(), radius

    def forward(self, images):
        logits = self.network(images)
        nearest = torch.cdist(images.detach().flatten(1), self.stored.flatten(1), p=float("inf")).min(1)
        told = 9.0 * nn.functional.one_hot(own[nearest.indices], logits.shape[1])
        return torch.where(nearest.values[:, None] < self.radius, told + 0.01 * logits, logits)
"""
"""A classifier, and a model that answers images near those judged by what it stored of them."""


def _holding(says: str, check: str, radius: float) -> Case:
    wrong, right = f"Undefended(Holding({radius})), *problem, count=5", "network, *problem, count=5"
    return _audit("unseen", says, check, wrong, right, HOLDING)


SAMPLING = """
import memory_defense
from certificates.proving import Planes, images_of
from memory_defense import Smoothing

def checked(check, radius, **smoothing):
    images = images_of(2)
    chosen = Smoothing(**{"sigma": 0.3, "samples": 20, "selection": 20} | smoothing)
    record = memory_defense.certify(Planes(), images, Planes()(images).argmax(1), radii=[radius], smoothing=chosen)
    return {one.check: one for one in record.audit}[check]
"""
"""What a certification by noisy copies is audited with."""


def _sampling(says: str, check: str, wrong: str, right: str) -> Case:
    return Case(
        "evaluation/audit/sampling.py",
        says,
        f"one = checked({check!r}, {wrong}); assert one.verdict == 'fail'; said = one.remedy",
        f"assert checked({check!r}, {right}).verdict == 'pass'",
        SAMPLING,
    )


CASES = (
    _sampling(
        "ask more copies, or take a larger sigma and a classifier that was trained with it",
        "n large enough for the radius claimed",
        "0.4",
        "0.4, samples=200",
    ),
    _sampling(
        "take a sigma between one step of the lattice and 40",
        "sums of image and noise are exact",
        "0.1, sigma=50.0",
        r"0.1, sigma=float(«and (\d+)»)",
    ),
    _audit(
        "proofs",
        "evaluate it with a gate: defenses.gated.Gated, or --gate EPSILON",
        "no attack got a wrong answer past the gate",
        "Planes(), cases(norm=L2), *mine",
        r"«gate: defenses\.gated\.(\w+)»(Planes(), 0.1), cases(norm=L2), *mine",
        """
from certificates.proving import Planes, images_of
from memory_defense.defenses.gated import Gated
mine = images_of(16), Planes()(images_of(16)).argmax(1), 3
""",
    ),
    _audit(
        "results",
        "raise steps or restarts, use the margin loss, or differentiate a smoother surrogate",
        "iterative at least as strong as single-step",
        "plain, cases(fgsm=Fgsm(), pgd=few)",
        "plain, cases(fgsm=Fgsm(), pgd=replace(few, steps=20))",
    ),
    _audit(
        "results",
        "attack the part that decides; try knowledge 'selector' and 'end-to-end'",
        "attack stronger than random noise",
        "SlotToy(), cases('fixed-slots', 0.3)",
        r"SlotToy(), cases(«knowledge ('\w+') and», 0.3)",
    ),
    Case(
        "evaluation/audit/results.py",
        "report the worst case over every knowledge, never one protocol alone",
        "said = failing('every knowledge finds more than the weakest attack does', SlotToy(), both)",
        """
        found = attack_with(SlotToy(), grey(levels), classes, both, options=Options(seed=0))
        (worst,) = found.worst_cases()
        assert worst.accuracy == min(one.result.accuracy for one in found.outcomes)
        """,
        f"{AUDIT}\nboth = cases('fixed-slots', 0.3) + cases('selector', 0.3)",
    ),
    _audit(
        "results",
        "use step sizes that follow epsilon, more steps, or start from the smaller radius' images",
        "accuracy falls with epsilon",
        "plain, curve(0.1) + curve(0.3, attack=Pgd(steps=1, step_size=0.001, random_start=False)) + cases()",
        "plain, curve(0.1) + curve(0.3, attack=Pgd(steps=1, random_start=False)) + cases()",
    ),
    _audit(
        "results",
        "extend the curve to an L-inf radius of 0.5; if it still does not reach 0, fix the attack",
        "the curve against epsilon reaches 0 %",
        "plain, curve(0.05, 0.1)",
        r"plain, curve(0.05, «radius of ([\d.]+);»)",
    ),
    _audit(
        "results",
        "leave step_size out, and it follows epsilon; a published setting may stay if it is labelled as such",
        "step no larger than epsilon",
        "plain, cases(bim=Bim(step_size=0.2))",
        "plain, cases(bim=Bim())",
    ),
    _audit(
        "results",
        "fix the attack's projection; its result is refused",
        "every image inside its ball and inside [0, 1]",
        "plain, []",
        "plain, cases(pgd=Pgd(steps=2))",
    ),
    _audit(
        "results",
        "train the classifier, check that labels and images belong together, or evaluate more images",
        "clean accuracy, with its interval, is above chance",
        "Front(lambda logits, images: logits * 0 + torch.tensor([1.0, 0.0])), cases()",
        "plain, cases()",
    ),
    _audit(
        "results",
        "raise the steps until nothing changes; add a case that differs in its steps alone where this was not run",
        "twice the iterations find nothing more",
        "plain, cases(few=few, many=many)",
        "plain, cases(many=many, more=replace(many, steps=18))",
    ),
    _audit(
        "results",
        "set restarts above 1, or add a targeted attack that tries several classes",
        "gradient attacks start more than once",
        "plain, cases()",
        r"plain, cases(pgd=Pgd(steps=3, «set (\w+) above»=2))",
    ),
    _audit(
        "behaviour",
        "turn the randomness off, or attack and judge its expectation (wrappers.Eot)",
        "same answer when asked twice",
        "Random(), []",
        "plain, []",
    ),
    _audit(
        "behaviour",
        "return the values before the softmax",
        "answers are logits, not probabilities",
        "Front(lambda logits, images: logits.softmax(1)), cases()",
        "Front(lambda logits, images: logits), cases()",
    ),
    _audit(
        "behaviour",
        "remove whatever the defense knows about the order of the images; a list of labels has no robustness",
        "shuffled images take their answers along",
        "listed, []",
        "plain, []",
    ),
    _audit(
        "behaviour",
        "take the label, or the slot made of it, away from the model",
        "meaningless images do not get the right answers",
        "listed, [], grey(levels * 8), classes.repeat(8)",
        "plain, [], grey(levels * 8), classes.repeat(8)",
    ),
    _audit(
        "behaviour",
        "use running statistics (eval mode) and nothing that is computed over a batch",
        "same answer alone and in a batch",
        "Front(lambda logits, images: logits - logits.mean(0)), []",
        "Front(lambda logits, images: logits - running), []",
        "running = plain(grey(levels)).mean(0).detach()",
    ),
    _audit(
        "behaviour",
        "make the defense deterministic for this check",
        "same answer alone and in a batch",
        "Random(), []",
        "plain, []",
    ),
    _audit(
        "behaviour",
        "make the defense deterministic and free of batch statistics, or give it an exact surrogate",
        "the attack's verdict is the judge's",
        "Random(), cases()",
        "plain, cases()",
    ),
    _audit(
        "probes",
        "give the attacks more steps, restarts or queries; for a randomised defense raise submissions",
        "attacks find all that 50 draws of noise do",
        "plain, cases(epsilon=0.3, pgd=Pgd(steps=1, step_size=0.001, random_start=False))",
        "plain, cases(epsilon=0.3, pgd=Pgd(steps=10))",
    ),
    _audit(
        "binarisation",
        "raise steps and restarts, use another loss, or differentiate a stand-in (wrappers.Bpda): until the attack "
        "passes, what it leaves standing proves nothing",
        "the attack breaks a model that is known to break",
        "*network, cases(epsilon=0.03, pgd=replace(few, step_size=1e-4)), *problem, count=5",
        "*network, cases(epsilon=0.03, pgd=Pgd(steps=30, restarts=5)), *problem, count=5",
        "network, seen = [Undefended(five_classes())], some_images(); problem = [seen, network[0](seen).argmax(1)]",
    ),
    _audit(
        "attacks",
        "differentiate a stand-in (wrappers.Bpda, StraightThrough), use the margin loss, raise steps and restarts; "
        "until then believe the attack without gradients, and give it more queries",
        "no gradient-free attack finds what gradients miss",
        "masked, cases(pgd=Pgd(steps=3), square=Square(queries=200))",
        r"Front(lambda logits, images: wrappers.«wrappers\.(Bpda)»(torch.round, lambda one: one)(logits)), "
        "cases(pgd=Pgd(steps=3), square=Square(queries=200))",
        "from memory_defense import wrappers",
    ),
    _audit(
        "attacks",
        "start the white-box attack from the transferred image, or differentiate the model it was made for",
        "no transferred image finds what white-box attacks miss",
        "hidden, cases(pgd=Pgd(steps=3)) + cases('other', pgd=Pgd(steps=3))",
        "plain, cases(pgd=Pgd(steps=3)) + cases('other', pgd=Pgd(steps=3))",
        """
class Hidden(type(masked)):
    def surrogates(self):
        return {"end-to-end": self, "other": plain}

hidden = Hidden(masked.back)
""",
    ),
    _audit(
        "attacks",
        "use the margin loss where there are fewer than 4 classes; build the model for the classes of the data",
        "classes suit the losses",
        "plain, cases(), count=3",
        "Undefended(three), cases(), count=3",
        "three = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))",
    ),
    _audit(
        "attacks",
        "add a targeted attack (apgd-t, pgd-t), or an untargeted one",
        "targeted and untargeted gradient attacks were run",
        "plain, cases()",
        r"plain, cases() + cases(targeted=ATTACKS['«, (pgd-t)»'](steps=3))",
        "from memory_defense.attacks import ATTACKS",
    ),
    _audit(
        "attacks",
        "add 'square'",
        "an attack without gradients was run",
        "plain, cases()",
        "plain, cases() + cases(more=ATTACKS[«add (.*)»](queries=5))",
        "from memory_defense.attacks import ATTACKS",
    ),
    _audit(
        "attacks",
        "add 'hop-skip-jump'",
        "an attack that sees labels alone was run",
        "plain, cases()",
        "plain, cases() + cases(more=ATTACKS[«add (.*)»](queries=60))",
        "from memory_defense.attacks import ATTACKS",
    ),
    _audit(
        "attacks",
        "give the defense a transfer source, or start from another record's images (knowledge …)",
        "a transfer attack was run",
        "plain, cases()",
        "plain, cases() + cases('other', pgd=Pgd(steps=2))",
    ),
    _audit(
        "attacks",
        "add a ball of the other norm, or evaluate once more in it",
        "more than one norm was tried",
        "plain, cases()",
        "plain, cases() + cases(norm=L2, pgd=Pgd(steps=2))",
    ),
    _audit(
        "probes",
        "attack the part that answers; believe attacks without gradients, and give them more queries",
        "the gradient is that of the answers",
        "Front(lambda logits, images: 2 * logits.detach() - logits), cases()",
        "plain, cases()",
    ),
    _holding(
        "take away what the model holds of these images (stored images, features, hashes or labels), or evaluate "
        "images that its author has not seen",
        "images never seen withstand as those judged do",
        0.2,
    ),
    _holding(
        "take away what answers near the images judged; of a defense that is all jumps, believe attacks without "
        "gradients",
        "answers change gradually on the way to images never seen",
        0.2,
    ),
    _holding(
        "take the stored images away; nearness to the images of the evaluation is no robustness",
        "answers do not switch half-way between images",
        2.0,
    ),
    _holding(
        "take them away; a model that is judged on images that it holds is not judged",
        "the model holds none of the images judged",
        0.2,
    ),
    _audit(
        "outside",
        "answer from the image alone; write logs outside of the model",
        "answering leaves files and networks alone",
        "Front(logged), cases()",
        "plain, [log.write_text('asked'), cases()][1]",
        """
log = Path("log")

def logged(logits, images):
    log.write_text("asked")
    return logits
""",
    ),
    _audit(
        "outside",
        "take the clock away from the model",
        "the clock changes no answer",
        "Front(lambda logits, images: logits * (1.0 if time.time() < start + 3600 else -1.0)), []",
        "plain, []",
        "import time; start = time.time()",
    ),
    Case(
        "evaluation/audit/findings.py",
        "it would take about … s, more than a quarter of the attacks; evaluate more images",
        "one = line(check, plain, cases(fgsm=Fgsm())); assert one.verdict == 'not run'; said = one.meaning",
        "passing(check, plain, cases(fgsm=Fgsm()), grey(levels * 250), classes.repeat(250))",
        f"""{AUDIT}
from memory_defense.evaluation.audit import findings
patch.setattr(findings, "BRIEF", 0.0)  # as if every pass took long
check = "answers change gradually on the way to images never seen"
""",
    ),
    Case(
        "evaluation/audit/slots.py",
        "use a 3x3 stem, attack end-to-end, and add an attack without gradients",
        "said = failing(check, memory('paper'), [], photos, answers, count=10)",
        "passing(check, memory('sound'), [], photos, answers, count=10)",
        f"""{AUDIT}
from memory_defense.defenses.memory.presets import build_memory_defense
photos = torch.rand(8, 1, 28, 28)
answers = torch.arange(8)
check = "zero-gradient pixels with frozen slots"

def memory(preset):
    selector = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    return build_memory_defense(selector=selector, preset=preset, **shape).eval()
""",
    ),
    Case(
        "evaluation/audit/slots.py",
        "use a threshold near 1/M, as the sound preset does",
        "said = failing(check, memory('reference'), [], photos, answers, count=10)",
        "passing(check, memory('«the (sound) preset»'), [], photos, answers, count=10)",
        f"""{AUDIT}
from memory_defense.defenses.memory.presets import build_memory_defense
photos = torch.rand(8, 1, 28, 28)
answers = torch.arange(8)
check = "hard shrink removes something"

def memory(preset):
    selector = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    return build_memory_defense(selector=selector, preset=preset, **shape).eval()
""",
    ),
    Case(
        "evaluation/audit/run.py",
        "run the evaluation where there is more memory",
        "patch.setitem(run.CHECKS, 'logits', short); said = failing('logits', plain, cases())",
        """
        patch.setitem(run.CHECKS, "logits", usual)
        passing("answers are logits, not probabilities", plain, cases())
        """,
        f"""{AUDIT}
from memory_defense.evaluation.audit import run

usual = run.CHECKS["logits"]

def short(findings):
    raise MemoryError("out of memory")
""",
    ),
)
