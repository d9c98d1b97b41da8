"""Messages about certificates."""

from remedies.cases import Case

ROOMS = (
    "certificates/smoothing.py",
    "cli/certify.py",
    "cli/harden_certified.py",
    "evaluation/certifying.py",
    "training/noise.py",
    "workflows/certify.py",
    "workflows/harden_certified.py",
)

CERTIFIED = """
def certified(model=net, out="c.json", seed=0, **more):
    return memory_defense.certify(
        model, images, labels, radii=[0.1], smoothing=Smoothing(sigma=0.2, samples=100), out=out,
        options=Options(seed=seed, **more),
    )
"""
STOPPED = (
    CERTIFIED
    + """
class Stops:
    left = 4
    def begin(self, what, total):
        pass

    def note(self, text):
        pass

    def advance(self, steps, text=""):
        self.left -= steps
        if self.left < 0:
            raise KeyboardInterrupt

def stopped(model=net):
    try:
        certified(model, progress=Stops())
    except KeyboardInterrupt:
        pass
    assert Path("c.progress.safetensors").is_file()
"""
)
OWN = """
code("mine.py", '''
def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
''')
folder()

def certify(what):
    few = " --samples 100" * ("--sigma" in what)
    memdef(f"memdef certify {what} --radius 0.1{few}")
"""
HARDEN = """
from memory_defense.cli.harden import check
from memory_defense.cli.harden_arguments import HardenArguments
from workflows.own_folder import write_folder, write_net
write_net(Path("."), write_folder(Path("shapes"), train=4, test=1))

def checked(**changes):
    given = {"classifier": "shapes_net:build", "weights": Path("shapes.safetensors"), "data": "shapes"}
    check(HardenArguments(**given | changes))

def harden(more):
    few = "--epochs 1 --images 1 --samples 40 --selection 10 --radius 0.02 --certified 0.1 --out new"
    memdef(f"memdef harden shapes_net:hard --weights shapes.safetensors --data shapes {few} {more}")
"""

CASES = (
    Case(
        "cli/harden_certified.py",
        "…: not together with --certified, which attacks nothing and leaves your classifier as it is; leave it out",
        "checked(certified=0.25, epsilon='0.1')",
        "checked(certified=0.25)",
        given=HARDEN,
    ),
    Case(
        "cli/harden_certified.py",
        "--certified is …, but noise has a standard deviation above 0; give 0.25, say",
        "checked(certified=0.0)",
        r"checked(certified=«give (\S+), say»)",
        given=HARDEN,
    ),
    Case(
        "workflows/harden_certified.py",
        "change it, or train the denoiser without it, with --black-box",
        "harden('')",
        "harden('«with (--black-box)»')",
        given=HARDEN,
    ),
    Case(
        "certificates/smoothing.py",
        "but the noise needs a standard deviation above 0; give 0.25, say",
        "Smoothing(sigma=0.0)",
        r"Smoothing(sigma=«give (\S+), say»)",
    ),
    Case(
        "certificates/smoothing.py",
        "but at least 1 noisy copy is needed; give 1000, say",
        "Smoothing(sigma=0.2, samples=0)",
        r"Smoothing(sigma=0.2, samples=«give (\d+), say»)",
    ),
    Case(
        "certificates/smoothing.py",
        "but the probability of a wrong certificate is in (0, 1); give 0.001, say",
        "Smoothing(sigma=0.2, alpha=1)",
        r"Smoothing(sigma=0.2, alpha=«give (\S+), say»)",
    ),
    Case(
        "certificates/smoothing.py",
        "times; give 6, say",
        "Smoothing(sigma=0.2, looks=11)",
        r"Smoothing(sigma=0.2, looks=«give (\d+), say»)",
    ),
    Case(
        "workflows/certify.py",
        "the model proves nothing by itself; smooth it with smoothing=0.25, say",
        "memory_defense.certify(net, images, labels, radii=0.1)",
        r"memory_defense.certify(net, images[:1], labels[:1], radii=0.1, «with (smoothing=\S+), say»)",
    ),
    Case(
        "evaluation/certifying.py",
        "(other weights, images, options or seed); remove it to start over, or write to another place",
        "certified(seed=1)",
        """
        certified(seed=1, out="another.json")
        Path("«(c.progress.safetensors) belongs»").unlink()
        certified(seed=1)
        """,
        given=STOPPED + "stopped()\n",
    ),
    Case(
        "evaluation/certifying.py",
        "the classifier gives other answers now; remove it to start over, or write to another place",
        "certified(mended)",
        """
        certified(mended, out="another.json")
        Path("«(c.progress.safetensors) belongs»").unlink()
        certified(mended)
        """,
        given=STOPPED
        + """
answers = [1]
mended = lambda images: answers[0] * net(images)
stopped(mended)
answers[0] = 3
""",
    ),
    Case(
        "evaluation/certifying.py",
        "was left by another number of processes; go on in as many, or remove it to start over",
        "certified()",
        "Path('«^(.+) was left»').unlink()\ncertified()",
        given=STOPPED
        + """
stopped()
Path("c.progress.safetensors").rename("c.progress.safetensors.rank-1")
""",
    ),
    Case(
        "evaluation/certifying.py",
        "is damaged (…); remove it to start over",
        "certified()",
        "Path('«(c.progress.safetensors) is damaged»').unlink()\ncertified()",
        given=STOPPED
        + """
from memory_defense.tensorfiles import read_tensors, write_tensors
stopped()
tensors, header = read_tensors(Path("c.progress.safetensors"))
write_tensors(Path("c.progress.safetensors"), {**tensors, "radii": tensors["radii"][:3].clone()}, header)
""",
    ),
    Case(
        "cli/certify.py",
        "but noise has a standard deviation above 0; give 0.25, say",
        "certify('mine:build --data data --sigma 0')",
        r"certify('mine:build --data data --sigma «give (\S+), say»')",
        given=OWN,
    ),
    Case(
        "cli/certify.py",
        "but a probability of error is in (0, 1); give 0.001, say",
        "certify('mine:build --data data --sigma 0.2 --alpha 1')",
        r"certify('mine:build --data data --sigma 0.2 --alpha «give (\S+), say»')",
        given=OWN,
    ),
    Case(
        "cli/certify.py",
        "only with --sigma, whose noisy copies they are about",
        "certify('run --images 1 --bounds ibp --alpha 0.01')",
        r"certify('run --images 1 «only with (--sigma)» 0.2 --alpha 0.01')",
        given=OWN + "run()\n",
    ),
    Case(
        "cli/own_options.py",
        "only for package.module:build, but … is a run directory",
        "certify('run --sigma 0.2 --images 1 --size 28')",
        "certify('run --sigma 0.2 --images 1')\ncertify('mine:build --data data --sigma 0.2 --size 8')",
        given=OWN + "run()\n",
    ),
    Case(
        "cli/certify.py",
        "your classifier proves nothing by itself; give --sigma to smooth it, such as",
        "certify('mine:build --data data')",
        r"certify('mine:build --data data «(--sigma) to» «such as (\S+)»')",
        given=OWN,
    ),
    Case(
        "cli/certify.py",
        "proves nothing by itself; give --sigma to smooth it, such as 0.25, which certifies any classifier",
        "certify('run --images 1')",
        r"certify('run --images 1 «(--sigma) to» «such as ([\d.]+),»')",
        given=OWN + "run()\n",
    ),
)
