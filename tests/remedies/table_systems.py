"""Messages of the systems: loading, exporting, ONNX, and a user's own classifier."""

from remedies.cases import Case

ROOMS = ("systems",)
ASKED = "--epsilon 0.1 --attacks fgsm"

SIZES = "classes=5, channels=3, size=6"
NET = """
code("mine.py", '''
class Net(nn.Module):
    def __init__(self, classes=5, size=6):
        super().__init__()
        self.body = nn.Linear(3 * size * size, classes)

    def forward(self, images):
        return self.body(images.flatten(1))
''')
"""
HUB = 'run("RUN", evaluated=True); memdef("memdef export RUN --format hub-folder --out hub")'
UNTRACEABLE = """
from memory_defense.run_directory import RunDirectory
from memory_defense.systems.facts import facts_of

class Untraceable(nn.Module):
    def forward(self, images):
        return torch.linalg.lu_factor(images[:, 0])[0][:, 0, :10]
"""
AGAIN = "download it again, or make it with 'memdef export RUN --format … --out … --force'"
ONNX = 'run("RUN"); memdef("memdef export RUN --format onnx --out mine.onnx")'
FILE = 'run("RUN"); memdef("memdef export RUN --out mine.safetensors")'


def own(says: str, wrong: str, right: str, within: str = "") -> Case:
    """Return a case of a user's classifier: a body of `forward` that is refused, and one that is taken."""
    source = """
    code("mine.py", '''
    class Net(nn.Module):
        def forward(self, images):
            scores = images.flatten(1)[:, :5]
            {line}
    ''')
    build_user_model("mine:Net", classes=5, channels=3, size=6)
    """
    refused, taken = (source.replace("{line}", line) for line in (wrong, right))
    return Case("systems/own_model.py", says, refused, taken, within=within)


CASES = (
    Case(
        "systems/build.py",
        "has no classifier to choose, but … was named; leave it out",
        "build_defense(ModelSpec(dataset='cifar10', defense='memae', preset='sound', selector='lenet-small'))",
        "build_defense(ModelSpec(dataset='cifar10', defense='memae', preset='sound'))",
    ),
    Case(
        "systems/build.py",
        "stands on a classifier; name one as its selector: …",
        "build_defense(ModelSpec(dataset='cifar10', preset='sound'))",
        r"build_defense(ModelSpec(dataset='cifar10', preset='sound', «its (selector)»='«: (\w+)»'))",
    ),
    Case(
        "systems/export.py",
        "a model card goes with the format hub-folder and with no other",
        "export('run', 'mine.safetensors', card=card)",
        "export('run', 'mine.safetensors'); export('run', 'hub', card=card, format='«the format ([a-z-]+) and»')",
        given="run(evaluated=True)\ndef card(facts, record):\n    return 'a card'",
    ),
    Case(
        "systems/facts.py",
        "load the run directory itself, or export it with --format onnx, which needs no code",
        "memdef('memdef export run')",
        """
        assert load("run")(torch.rand(2, 3, 16, 16)).shape == (2, 3)
        memdef("memdef export run «it with (--format onnx)» --out mine.onnx")
        assert load("mine.onnx")(torch.rand(2, 3, 16, 16)).shape == (2, 3)
        """,
        given="hardened()",
    ),
    Case(
        "systems/facts.py",
        "install the version that wrote it, memory-defense==…, or …",
        "load('hub')",
        "memdef(\"«with '(memdef .*)'»\"); load('hub')",
        given=f"""{HUB}
config = Path("hub/config.json")
config.write_text(config.read_text().replace('"schema": 1', '"schema": 2'))
""",
        ends=AGAIN,
    ),
    Case(
        "systems/facts.py",
        "what it says about its model is damaged (…); …",
        "load('hub')",
        "memdef(\"«with '(memdef .*)'»\"); load('hub')",
        given=f"""{HUB}
config = Path("hub/config.json")
config.write_text(config.read_text().replace('"seed": 0,', ""))
""",
        ends=AGAIN,
    ),
    Case(
        "systems/facts.py",
        "download it again, or make it with 'memdef export RUN --format … --out … --force'",
        "load('mine.onnx')",
        "memdef(\"«with '(memdef .*)'»\"); load('mine.onnx')",
        given="run('RUN')",
    ),
    Case(
        "systems/load.py",
        "is damaged, or of another version (…); restore it, or train again into a new directory",
        "load('run')",
        """
        memdef("memdef train fashion-mnist/tiny --out new --train-images 50")
        load("new")
        manifest.write_text(kept)
        load("run")
        """,
        given="""
        run()
        manifest = Path("run/manifest.json")
        kept = manifest.read_text()
        changed = json.loads(kept.replace('"preset": "', '"preset": "less '))
        RunDirectory(Path("run")).write(changed)
        """,
    ),
    Case(
        "systems/load.py",
        "remove … to load the defense without a record",
        "load('run')",
        "Path('«remove (.+?) to load»').unlink(); load('run')",
        given="""
        record = run(evaluated=True) / "record.json"
        record.write_text(record.read_text().replace('"images": ', '"images": 1'))
        """,
    ),
    Case(
        "systems/load.py",
        "load a run directory, or export one with 'memdef export RUN'",
        "load('mine.safetensors')",
        "load('RUN'); memdef(\"«with '(memdef .*)'»\"); load('RUN.safetensors')",
        given="""
        import safetensors.torch
        run("RUN")
        safetensors.torch.save_file(net.state_dict(), "mine.safetensors")
        """,
    ),
    Case(
        "systems/load.py",
        "is not the file that … was written for (its sha256 is another); …",
        "load('hub')",
        "memdef(\"«with '(memdef .*)'»\"); load('hub')",
        given=f"""{HUB}
tensors, header = read_tensors(Path("hub/model.safetensors"))
from memory_defense.tensorfiles import write_tensors
write_tensors(Path("hub/model.safetensors"), tensors | {{"more": torch.zeros(1)}}, header)
""",
        ends=AGAIN,
    ),
    Case(
        "systems/load.py",
        "does not fit the model it names (…); …",
        "load('mine.safetensors')",
        "memdef(\"«with '(memdef .*)'»\"); load('mine.safetensors')",
        given=f"""{FILE}
tensors, header = read_tensors(Path("mine.safetensors"))
from memory_defense.tensorfiles import write_tensors
write_tensors(Path("mine.safetensors"), tensors | {{"more": torch.zeros(1)}}, header)
""",
        ends=AGAIN,
    ),
    Case(
        "systems/load.py",
        "needs the classifier that it was made with: …",
        "memory_defense.load('run')",
        "Path('elsewhere.py').rename('shapes_net.py'); memory_defense.load('run')",
        given="""
        import sys
        hardened()
        Path("shapes_net.py").rename("elsewhere.py")
        sys.modules.pop("shapes_net", None)
        shutil.rmtree("__pycache__", ignore_errors=True)
        """,
    ),
    Case(
        "systems/onnx_export.py",
        "which a traced graph cannot hold in reasonable size; export it with --format safetensors",
        "memdef('memdef export run --format onnx')",
        "memdef('memdef export run «it with (--format .*)»')",
        given="untrained('fashion-mnist/tiny/pixeldefend')",
    ),
    Case(
        "systems/onnx_export.py",
        "this system's pass cannot be written as ONNX (…); …",
        "checked_onnx(Untraceable(), facts_of(RunDirectory(run())))",
        "memdef('memdef export run «(--format .*)»')",
        given=UNTRACEABLE,
    ),
    Case(
        "systems/onnx_export.py",
        "load the run directory itself",
        "checked_onnx(Untraceable(), facts_of(RunDirectory(Path('run'))))",
        "«(load) the run directory»('run')",
        given=f"{UNTRACEABLE}\nhardened()",
    ),
    Case(
        "systems/onnx_export.py",
        "export it with --format safetensors",
        "checked_onnx(Untraceable().eval(), facts_of(RunDirectory(run())))",
        "memdef('memdef export run «(--format .*)»')",
        given=UNTRACEABLE,
    ),
    Case(
        "systems/onnx_export.py",
        "the selector cannot tell any two slots apart, so nothing can be compared; train it first",
        "memdef('memdef export run --format onnx')",
        """
        memdef("memdef train fashion-mnist/tiny --out new --train-images 100")
        memdef("memdef export new --format onnx")
        """,
        given="""
        from memory_defense.training.checkpoint import save_weights
        defense = load(untrained("fashion-mnist/tiny"))
        nn.init.zeros_(defense.selector.output.weight)
        nn.init.zeros_(defense.selector.output.bias)
        save_weights(Path("run/weights.safetensors"), defense)
        mine = RunDirectory(Path("run"))
        mine.write({**mine.read(), "sha256": {}})
        """,
    ),
    Case(
        "systems/onnx_export.py",
        "so it is not written; export it with --format safetensors",
        "compare(read_onnx(Path('mine.onnx')), other, (torch.rand(8, 1, 28, 28), 0))",
        "memdef('memdef export RUN «it with (--format safetensors)»')",
        given=f"""{ONNX}
from memory_defense.systems.onnx_export import compare
from memory_defense.systems.onnx_run import read_onnx
other = load(untrained("fashion-mnist/tiny"))
""",
    ),
    Case(
        "systems/onnx_run.py",
        "this needs the package …, which is not installed: pip install 'memory-defense[…]'",
        "memdef('memdef export run --format onnx')",
        r"""
        from importlib.metadata import requires
        extra = "«memory-defense\[(\w+)\]»"
        brought = [one for one in requires("memory-defense") if extra in one.partition(";")[2]]
        assert any(one.startswith("«package (\w+),»>") for one in brought)
        sys.modules["onnx"] = installed
        memdef("memdef export run --format onnx")
        """,
        given="""
        import sys
        run()
        import onnx as installed
        sys.modules["onnx"] = None
        """,
    ),
    Case(
        "systems/onnx_run.py",
        "its metadata have no …; write one with 'memdef export RUN --format onnx'",
        "read_onnx(Path('mine.onnx'))",
        "memdef(\"«with '(memdef .*)'»\"); load('RUN.onnx')",
        given="""
        import warnings
        run("RUN")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(net, (images,), "mine.onnx", dynamo=False)
        """,
    ),
    Case(
        "systems/onnx_run.py",
        "does not map … to …; …",
        "load('mine.onnx')",
        "memdef(\"«with '(memdef .*)'»\"); load('mine.onnx')",
        given=f"""{ONNX}
import onnx
model = onnx.load("mine.onnx")
model = onnx.compose.add_prefix(model, "my-", rename_nodes=False, rename_edges=True)
del model.metadata_props[-1]  # the checksum
onnx.save(model, "mine.onnx")
""",
        ends=AGAIN,
    ),
    Case(
        "systems/onnx_run.py",
        "images have shape …, the model takes (B, …); resize or convert them",
        "load('mine.onnx')(photos)",
        """
        smaller = nn.functional.interpolate(photos, size=28)
        load("mine.onnx")(smaller.mean(1, keepdim=True))
        """,
        given=f"{ONNX}; photos = torch.rand(2, 3, 32, 32)",
    ),
    Case(
        "systems/onnx_run.py",
        "choose one with 'memdef evaluate RUN --detection', then export it again",
        "load('mine.onnx').suspicious(photos)",
        """
        memdef("«with '(memdef .*)'» --images 4 --attacks fgsm")
        memdef("memdef export RUN --format onnx --out mine.onnx --force")
        load("mine.onnx").suspicious(photos)
        """,
        given=f"{ONNX}; photos = torch.rand(2, 1, 28, 28)",
    ),
    Case(
        "systems/onnx_run.py",
        "is not a complete ONNX model that ONNX Runtime … can run (…); …",
        "load('mine.onnx')",
        "memdef(\"«with '(memdef .*)'»\"); load('mine.onnx')",
        given=f"{ONNX}; Path('mine.onnx').write_bytes(Path('mine.onnx').read_bytes()[:-1000])",
        ends=AGAIN,
    ),
    Case(
        "systems/onnx_run.py",
        "does not exist; …",
        "load('mine.onnx')",
        "memdef(\"«with '(memdef .*)'»\"); load('mine.onnx')",
        given="run('RUN')",
        ends=AGAIN,
    ),
    Case(
        "systems/own_model.py",
        "start from the folder that holds it, or install it",
        f"build_user_model('mine:Net', {SIZES})",
        f"""
        import os, sys
        os.chdir("project")
        build_user_model("mine:Net", {SIZES})
        os.chdir("..")
        sys.modules.pop("mine")
        Path(sys.path[0], "mine.py").write_text(Path("project/mine.py").read_text())
        os.chdir("project/elsewhere")
        build_user_model("mine:Net", {SIZES})
        """,
        given=f"{NET}\nPath('project/elsewhere').mkdir(parents=True); Path('mine.py').rename('project/mine.py')",
    ),
    Case(
        "systems/own_model.py",
        "has no ……; it has: …",
        f"build_user_model('mine:net', {SIZES})",
        rf"build_user_model('mine:«it has: .*\b(Net)\b»', {SIZES})",
        given=NET,
    ),
    Case(
        "systems/own_model.py",
        "expected an nn.Module, a class of one or a function",
        f"code('mine.py', 'net = 3'); build_user_model('mine:net', {SIZES})",
        f"{NET}\nbuild_user_model('mine:Net', {SIZES})",
    ),
    Case(
        "systems/own_model.py",
        "put a plain function into the forward of one",
        f"""
        code("mine.py", '''
        def build(classes):
            return lambda images: images.flatten(1)[:, :classes]
        ''')
        build_user_model("mine:build", {SIZES})
        """,
        f"""
        code("mine.py", '''
        class Net(nn.Module):
            def forward(self, images):
                return images.flatten(1)[:, :5]
        ''')
        build_user_model("mine:Net", {SIZES})
        """,
    ),
    Case(
        "systems/own_model.py",
        "give the others with --argument NAME=VALUE, or defaults, or write a function that sets them",
        f"""
        code("mine.py", '''
        def build(classes, width):
            return nn.Sequential(nn.Flatten(), nn.Linear(108, width), nn.Linear(width, classes))
        ''')
        build_user_model("mine:build", {SIZES})
        """,
        f"""
        code("mine.py", '''
        def build(classes, width=8):
            return nn.Sequential(nn.Flatten(), nn.Linear(108, width), nn.Linear(width, classes))

        def narrow(classes):
            return build(classes, width=4)
        ''')
        build_user_model("mine:build", {SIZES})
        build_user_model("mine:narrow", {SIZES})
        """,
    ),
    Case(
        "systems/own_model.py",
        "save state_dict() of the very same model",
        f"build_user_model('mine:Net', {SIZES}, weights='mine.safetensors')",
        f"""
        import mine
        save_file(mine.Net(5, 6).«save (state_dict..)»
, "mine.safetensors")
        build_user_model("mine:Net", {SIZES}, weights="mine.safetensors")
        """.replace("\n, ", ", "),
        given=f"{NET}\nfrom safetensors.torch import save_file; save_file(net.state_dict(), 'mine.safetensors')",
    ),
    own(
        "work on a copy, images.clone()",
        "return images.clamp_(0.4, 0.6).flatten(1)[:, :5]",
        r"images = «a copy, (images.clone\(\))»; return images.clamp_(0.4, 0.6).flatten(1)[:, :5]",
    ),
    own("expected logits …; return the tensor", "return scores, images", "return scores"),
    *(
        Case(
            "systems/own_model.py",
            says,
            f"memdef('memdef evaluate RUN.safetensors {ASKED} --data shapes')",
            f"{right}; memdef('memdef evaluate RUN.safetensors {ASKED} --data shapes')",
            given=f"""
from PIL import Image

def classes(*names):
    for name in names:
        Path("shapes/test", name).mkdir(parents=True)
        Image.new("L", (28, 28), 20 * len(name)).save(f"shapes/test/{{name}}/0.png")

run("RUN")
memdef("memdef export RUN --format safetensors --out RUN.safetensors")
classes({given})
""",
            within="knows … classes, the data has …; …",
        )
        for says, given, right in (
            (
                "add to the data those that it knows beyond: an empty folder each, or their names in the 'classes'",
                '"a", "b"',
                '[Path("shapes/test", name).mkdir() for name in "cdefghij"]',
            ),
            (
                "leave out the images of the classes that it does not know",
                '*"abcdefghijkl"',
                '[shutil.rmtree(Path("shapes/test", name)) for name in "kl"]',
            ),
        )
    ),
    own("build it for the classes of the data", "return images.flatten(1)[:, :7]", "return scores"),
    own("return scores, not decisions", "return (scores > 0.5).long()", "«(return scores), not»"),
    own(
        "fix its forward: it divides by 0, takes a logarithm of 0 or overflows on images in [0, 1]",
        "return (scores * 0).log()",
        "return (scores + 1e-6).log()",
        within="answers with … NaN or infinite logits; …",
    ),
    Case(
        "systems/own_model.py",
        "give it weights without NaN or infinity: those of … have some",
        f"build_user_model('mine:Net', {SIZES}, weights='mine.safetensors')",
        f"""
        nn.init.zeros_(state["«those of (.*) have»"])
        save_file(state, "mine.safetensors")
        build_user_model("mine:Net", {SIZES}, weights="mine.safetensors")
        """,
        given=f"""{NET}
from safetensors.torch import save_file
import mine
state = mine.Net(5, 6).state_dict()
state["body.bias"][3] = float("nan")
save_file(state, "mine.safetensors")
""",
        within="answers with … NaN or infinite logits; …",
    ),
)
