"""Messages about what the commands are asked: evaluating, hardening; and about what a model does in a pass."""

from remedies.cases import Case

ROOMS = (
    *("attacks/engine.py", "attacks/autoattack.py", "attacks/suites.py", "attacks/words.py", "passes.py"),
    *("cli/evaluate", "cli/harden.py", "evaluation/metrics.py", "workflows/evaluate.py"),
)

MINE = """
from safetensors.torch import save_file
code("mine.py", "def build(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 2))")
save_file(nn.Sequential(nn.Flatten(), nn.Linear(64, 2)).state_dict(), "mine.safetensors")
folder("pictures")
"""
OWN = "memdef evaluate mine:build --weights mine.safetensors --data pictures --attacks fgsm"
RUN = "memdef evaluate run --attacks fgsm --images 2"
HARDEN = "memdef harden shapes_net:build --out new --epochs 1 --attacks fgsm --images 2 --no-fine-tune"
CLASSIFIER = """
from workflows.own_folder import SOURCE, write_folder, write_net
write_net(Path("."), write_folder(Path("shapes"), train=4, test=1))
"""
CHECK = f"""
from memory_defense.cli.harden import HardenArguments, check
{CLASSIFIER}

def checked(**changes):
    given = {{"classifier": "shapes_net:build", "weights": Path("shapes.safetensors"), "data": "shapes"}}
    check(HardenArguments(**given | changes))
"""
DRAWS = """
from memory_defense.randomness import ImageDraws
draws = ImageDraws.of(0, "attack", 8)
"""


def _asked(says: str, wrong: str, right: str, given: str = MINE, file: str = "cli/evaluate_checks.py") -> Case:
    """Return a case of ``memdef evaluate``: two command lines."""
    return Case(file, says, f"memdef({wrong!r})", f"memdef({right!r})", given)


CASES = (
    Case(
        "attacks/engine.py",
        "give the step that cuts it a stand-in with wrappers.Bpda or StraightThrough",
        "Pgd(steps=2)(stepped, images, labels, threat.Linf(0.1), draws)",
        r"""
        model = wrappers.«with wrappers\.(\w+)»(stepped, net)
        Pgd(steps=2)(model, images, labels, threat.Linf(0.1), draws)
        straight = wrappers.«or (StraightThrough)»(lambda images: (images > 0.5).float())
        Pgd(steps=2)(lambda images: net(straight(images)), images, labels, threat.Linf(0.1), draws)
        """,
        f"""{DRAWS}
from memory_defense import wrappers

def stepped(images):
    return net((images > 0.5).float())
""",
    ),
    Case(
        "attacks/autoattack.py",
        "leave it out",
        "AutoAttack(version='rand', queries=100)",
        "AutoAttack(version='rand')",
    ),
    _asked(
        "…: only for package.module:build, but … is a run directory",
        f"{RUN} --norm l2",
        RUN,
        "run()",
        "cli/own_options.py",
    ),
    _asked(
        "--knowledge: not together with --detection, which attacks end-to-end and by what evades the flag",
        f"{RUN} --detection --knowledge selector",
        f"{RUN} --knowledge selector",
        "run()",
    ),
    _asked(
        "--detection: only for a run directory, whose held-out images the threshold comes from",
        f"{OWN} --epsilon 0.1 --detection",
        f"{OWN} --epsilon 0.1",
    ),
    _asked(
        "which images? give --data: a folder, a file of arrays, fashion-mnist or cifar10",
        OWN.replace(" --data pictures", " --epsilon 0.1"),
        f"{OWN} --epsilon 0.1",
        file="cli/own_options.py",
    ),
    _asked(
        "--knowledge: only for a run directory; your own classifier is its own surrogate",
        f"{OWN} --epsilon 0.1 --knowledge end-to-end",
        f"{OWN} --epsilon 0.1",
    ),
    _asked(
        "the largest change that an attack may make is missing; give --epsilon, such as 8/255; it may be repeated",
        OWN,
        f"{OWN} --epsilon «such as (8/255)» --epsilon 0.1",
    ),
    _asked(
        "--false-alarms: only together with --detection, whose threshold it decides",
        f"{RUN} --false-alarms 0.1",
        f"{RUN} --false-alarms 0.1 «with (--detection)»",
        "run()",
    ),
    Case(
        "cli/evaluate_checks.py",
        "--rejection-cost: only for a run directory; call evaluation.selection.select for your own",
        f"memdef('{OWN} --epsilon 0.1 --rejection-cost 0.1')",
        r"""
        from memory_defense.data.images import ImageSet
        from memory_defense.defenses.undefended import Undefended
        from memory_defense.evaluation import selection
        found = selection.«call evaluation\.selection\.(select)»(
            Undefended(net), ImageSet(images, labels, torch.arange(8)),
            attacks={"pgd": Pgd(steps=2)}, balls=[threat.Linf(0.1)], costs=[0.1],
        )
        assert len(found) == 1
        """,
        given=MINE,
    ),
    _asked(
        "leave it out, and smooth your own classifier with 'memdef certify'",
        f"{OWN} --epsilon 0.1 --gate 0.1",
        "«with '(memdef certify)'» mine:build --data pictures --radius 0.1 --sigma 0.2 --samples 50",
    ),
    Case(
        "cli/harden.py",
        "write one with safetensors.torch.save_file(net.state_dict(), ...)",
        "memdef('memdef harden shapes_net:build --weights shapes.txt --data shapes')",
        """
        import safetensors
        «with (safetensors.*?)\\(»(net.state_dict(), "mine.safetensors")
        checked(weights=Path("mine.safetensors"))
        """,
        f"{CHECK}\nPath('shapes.txt').write_text('weights')",
    ),
    Case(
        "cli/harden.py",
        "asks for something else; leave out one of both",
        "memdef('memdef harden shapes_net:build --weights shapes.safetensors --data shapes --without-memory "
        "--keep-clean-accuracy')",
        "checked(without_memory=True); checked(keep_clean_accuracy=True)",
        CHECK,
    ),
    Case(
        "cli/harden.py",
        "say what is fine-tuned; leave --no-fine-tune out, or them",
        "memdef('memdef harden shapes_net:build --weights shapes.safetensors --data shapes --no-fine-tune "
        "--train-last 1')",
        "checked(train_last=1); checked(fine_tune=False)",
        CHECK,
    ),
    Case(
        "cli/predict.py",
        "which flags no image; leave --false-alarms and --gate out, or harden it with a memory",
        "memdef('memdef predict plain shapes/test --false-alarms 0.1')",
        "memdef('memdef predict plain shapes/test'); memdef('memdef predict run shapes/test --false-alarms 0.4')",
        """
        hardened()
        memdef("memdef harden shapes_net:build --weights shapes.safetensors --data shapes --out plain --epochs 1 "
               "--attacks fgsm --images 2 --without-memory")
        """,
    ),
    Case(
        "cli/harden.py",
        "does not exist; train your net and save it there first",
        "memdef('memdef harden shapes_net:build --weights gone.safetensors --data shapes')",
        "shutil.copy('shapes.safetensors', '«--weights (.*) does not»'); checked(weights=Path('gone.safetensors'))",
        CHECK,
    ),
    Case(
        "cli/harden.py",
        "give a folder with train/CLASS/FILE and test/CLASS/FILE, a .npz or .safetensors file, or one of …",
        "memdef('memdef harden shapes_net:build --weights shapes.safetensors --data shape')",
        """
        checked(data="shapes")
        np.savez("mine.npz", train_images=np.zeros((2, 8, 8)))
        checked(data="mine.npz")
        checked(data="«or one of ([a-z-]+)»")
        """,
        CHECK,
    ),
    Case(
        "cli/harden.py",
        "--size is …, but the memory autoencoder takes … to … pixels",
        "memdef('memdef harden shapes_net:build --weights shapes.safetensors --data shapes --size 8')",
        "checked(size=«takes (\\d+)»)",
        CHECK,
    ),
    Case(
        "cli/harden.py",
        "and --no-fine-tune asks for none; leave out one of both",
        "memdef('memdef harden shapes_net:build --weights shapes.safetensors --data shapes --keep-clean-accuracy "
        "--no-fine-tune')",
        "checked(keep_clean_accuracy=True); checked(fine_tune=False)",
        CHECK,
    ),
    Case(
        "cli/harden.py",
        "but it must be above 0; write it as 8/255 or 0.03",
        "memdef('memdef harden shapes_net:build --weights shapes.safetensors --data shapes --epsilon 0')",
        "checked(epsilon='«as (8/255)»'); checked(epsilon='«or (0.03)»')",
        CHECK,
    ),
    Case(
        "evaluation/metrics.py",
        "look for sqrt(0), log(0), 0/0 or overflow in its forward pass, and where -inf masks a class, return -1e4",
        "evaluate(lambda images: net(images) * nan, images, labels, epsilon=0.1, attacks='fgsm')",
        r"""
        evaluate(net, images, labels, epsilon=0.1, attacks="fgsm")
        masked = torch.tensor([False, False, False, True])
        evaluate(lambda images: net(images).masked_fill(masked, «return (\S+)$»), images, labels.clamp(max=2),
                 epsilon=0.1, attacks="fgsm")
        """,
        given="nan = float('nan')",
    ),
    Case(
        "evaluation/metrics.py",
        "does it belong to these images? Labels that count from 1 become labels - 1",
        "judged(net, images, labels + 4, Submissions())",
        "labels = labels + 1; judged(net, images, «become (.*)», Submissions())",
    ),
    Case(
        "evaluation/metrics.py",
        "the rule is …, expected 'any' or 'majority'",
        "Submissions(count=3, rule='most')",
        r"Submissions(count=3, rule=«or ('\w+')»)",
    ),
    Case(
        "passes.py",
        "a micro-batch of … images is none; give at least 1, or None for the default",
        "entered(0)",
        r"entered(«at least (\d)»); entered(«or (None)»)",
        given="def entered(size):\n    with micro_batches_of(size):\n        pass",
    ),
    Case(
        "passes.py",
        "there is not enough memory for … in a pass; use a smaller network, or a device with more",
        "evaluate(large, images, labels, epsilon=0.1, attacks='fgsm')",
        "evaluate(net, images, labels, epsilon=0.1, attacks='fgsm')",
        given="def large(images):\n    raise torch.OutOfMemoryError('out of memory')",
    ),
    Case(
        "passes.py",
        "the model changed its images in place, and did not before; let it copy them first",
        "judge = regular(Late(copies=False)); judge(images); judge(images)",
        "judge = regular(Late(copies=True)); judge(images); judge(images)",
        given="""
        class Late(nn.Module):
            def __init__(self, copies):
                super().__init__()
                self.calls, self.copies = 0, copies

            def forward(self, images):
                self.calls += 1
                images = images.clone() if self.copies else images
                return net(images.mul_(0.5) if self.calls > 1 else images)
        """,
    ),
    Case(
        "workflows/evaluate.py",
        "give attacks that only ask: …, or the suite fast, which has the first",
        "evaluate(Asked(), images, labels, epsilon=0.1, attacks='pgd')",
        r"""
        evaluate(Asked(), images, labels, epsilon=0.5, attacks="«only ask: ([a-z-]+)»")
        evaluate(Asked(), images, labels, epsilon=0.5, attacks="«suite (\w+),»")
        """,
        given="""
        class Asked(nn.Module):
            def forward(self, images):
                return net(images.detach())

            def surrogates(self):
                return {"queries": self}
        """,
    ),
    Case(
        "workflows/evaluate.py",
        "wrap it so that it finds these itself",
        "evaluate(lambda images, slots: net(images), images, labels, epsilon=0.1, attacks='fgsm')",
        "evaluate(lambda images, slots=None: net(images), images, labels, epsilon=0.1, attacks='fgsm')",
    ),
    Case(
        "workflows/assess.py",
        "leave the knowledge out, or give attacks that follow a gradient, such as pgd",
        "memdef('memdef evaluate run --knowledge selector --attacks square --images 2')",
        """
        memdef("memdef evaluate run --knowledge selector --attacks «such as (.*)» --images 2")
        memdef("memdef evaluate run --attacks square --images 2")
        """,
        given="run()",
    ),
)
