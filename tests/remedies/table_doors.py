"""Messages of the doors that classifiers come in by, of their preprocessing and of what they are converted to."""

from remedies.cases import Case

ROOMS = ("systems",)

MADE = """
from systems.doors import Last, Levels, Net, images as pictures, write_onnx, write_program
torch.manual_seed(0)
pixels, small = torch.rand(2, 3, 32, 32), Net().eval()
"""
ONNX = f"{MADE}\nwrite_onnx(small, pixels, Path('mine.onnx'))"
ASKED = "--data data --epsilon 0.1 --attacks fgsm"
TARGET = f"{ONNX}\npictures(Path('data'))"
CODE = """
code("mine.py", '''
class Net(nn.Sequential):
    def __init__(self, classes=2, depth=1):
        super().__init__(nn.Flatten(), nn.Linear(64, classes))
''')
folder()
"""
HF = """
import transformers
config = transformers.ViTConfig(
    hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, image_size=8, patch_size=4,
    num_labels=2,
)
model = transformers.ViTForImageClassification(config)
model.save_pretrained("vit")

def processor(**said):
    Path("vit/preprocessor_config.json").write_text(json.dumps(said))
"""
READ = "load_transformers(Path('vit'))"


def doors(says: str, wrong: str, right: str, given: str = CODE) -> Case:
    """Return a case of what the command line says of a target and its options."""
    return Case("systems/doors.py", says, f"memdef('memdef evaluate {wrong}')", right, given=given)


def hf(says: str, wrong: str, right: str) -> Case:
    """Return a case of a folder of transformers."""
    return Case("systems/transformers_model.py", says, wrong, right, given=HF)


CASES = (
    Case(
        "systems/preprocessing.py",
        "must be finite, and scale and std above 0; write …, say",
        "Preprocessing.parse('std=0')",
        "Preprocessing.parse('«write (.*), say»')",
    ),
    Case(
        "systems/preprocessing.py",
        "says … already; leave out …",
        "Preprocessing.parse('127,bgr,mean=1')",
        "assert '«leave out (.*)$»' == 'mean'; Preprocessing.parse('127,bgr')",
    ),
    Case(
        "systems/preprocessing.py",
        "says no preprocessing at …; write …, or …, joined by commas",
        "Preprocessing.parse('rgb')",
        "Preprocessing.parse('«write (255),»'); Preprocessing.parse('«, or (.*), joined»')",
    ),
    Case(
        "systems/preprocessing.py",
        "separate them by /, such as …",
        "Preprocessing.parse('mean=half')",
        "Preprocessing.parse('«such as (.*)$»')",
    ),
    Case(
        "systems/preprocessed.py",
        "give one number, or …, separated by /",
        "Preprocessed(net, Preprocessing.parse('mean=1/2/3'), 1)",
        "Preprocessed(net, Preprocessing.parse('mean=1'), 1)",
    ),
    Case(
        "systems/preprocessed.py",
        "bgr is for images of 3 channels, and these have …; leave it out",
        "Preprocessed(net, Preprocessing.parse('bgr,255'), 1)",
        "Preprocessed(net, Preprocessing.parse('255'), 1)",
    ),
    doors(
        "and name the code that they belong to: package.module:build --weights ….safetensors",
        f"w.pt {ASKED}",
        rf"""
        memdef("«with: (memdef convert \S+ \S+),»")
        memdef("memdef evaluate mine:Net «build (--weights \S+)$» {ASKED}")
        """,
        given=CODE + "torch.save({'1.weight': torch.rand(2, 64), '1.bias': torch.zeros(2)}, 'w.pt')",
    ),
    doors(
        "--argument: only for package.module:build; … is not code, so it takes none",
        f"mine.onnx --argument depth=1 {ASKED}",
        f"memdef('memdef evaluate mine.onnx {ASKED}')",
        TARGET,
    ),
    doors(
        "--random-weights: only for package.module:build without --weights; leave it out",
        f"mine.onnx --random-weights {ASKED}",
        f"memdef('memdef evaluate mine.onnx {ASKED}')",
        TARGET,
    ),
    doors(
        "--weights: only for package.module:build; … brings its own",
        f"mine.onnx --weights data.safetensors {ASKED}",
        f"memdef('memdef evaluate mine.onnx {ASKED}')",
        f"{TARGET}\nfrom safetensors.torch import save_file; save_file(small.state_dict(), 'data.safetensors')",
    ),
    doors(
        "--preprocess: not for …, which takes images in [0, 1] as exported; leave it out",
        "run.safetensors --preprocess 255 --data fashion-mnist --epsilon 0.1 --attacks fgsm --images 2",
        "memdef('memdef evaluate run.safetensors --data fashion-mnist --epsilon 0.1 --attacks fgsm --images 2')",
        "run(); memdef('memdef export run')",
    ),
    doors(
        "write one with model.save_pretrained(…) and processor.save_pretrained(…)",
        f"hf:other {ASKED}",
        r"""
        «with (model\.save_pretrained\('other'\))»
        memdef("memdef evaluate hf:other --data data --epsilon 0.1 --attacks fgsm")
        """,
        HF
        + """
for label in "ab":
    Path("data/test", label).mkdir(parents=True)
    for number in range(2):
        Image.fromarray(np.full((8, 8, 3), 40 * number, np.uint8)).save(f"data/test/{label}/{number}.png")
""",
    ),
    doors(
        "--argument … is not NAME=VALUE, each name once; write depth=50, say",
        f"mine:Net --argument depth {ASKED}",
        f"memdef('memdef evaluate mine:Net --random-weights --argument «write (depth=.*), say» {ASKED}')",
    ),
    doors(
        "does not exist, or is not a file; give the path of one",
        f"onnx:theirs.onnx {ASKED}",
        f"memdef('memdef evaluate onnx:mine.onnx {ASKED}')",
        TARGET,
    ),
    doors(
        "does not exist; write it with 'memdef export RUN'",
        "RUN.safetensors --data fashion-mnist --epsilon 0.1 --attacks fgsm --images 2",
        """
        memdef("«with '(memdef .*)'»")
        memdef("memdef evaluate RUN.safetensors --data fashion-mnist --epsilon 0.1 --attacks fgsm --images 2")
        """,
        "run('RUN')",
    ),
    Case(
        "systems/load.py",
        "takes images in [0, 1] as exported; leave --preprocess … out",
        "load_model('run.onnx', '255')",
        "load_model('run.onnx')",
        given="run(); memdef('memdef export run --format onnx')",
    ),
    Case(
        "systems/load.py",
        "is not a classifier by itself; give hf:DIR, onnx:FILE, FILE.pt2 or an export",
        "load_model('mine:Net')",
        "load_model('«give hf:DIR, (onnx:)FILE»mine.onnx')",
        given=ONNX,
    ),
    Case(
        "systems/inputs.py",
        "it answers with no tensor, expected logits (B, K); export the classifier alone",
        "Fitted(Named(), InputForm(channels=3))(pixels)",
        "Fitted(small, InputForm(channels=3))(pixels)",
        given=MADE
        + "\nclass Named(nn.Module):\n    def forward(self, pixels):\n        return {'logits': pixels}\n",
    ),
    Case(
        "systems/inputs.py",
        "and images are (B, C, H, W); write a package.module:build that makes its input of them",
        "InputForm.of_shape((None, 3072), 'flat.onnx')",
        """
        code("mine.py", '''
        class Net(nn.Sequential):
            def __init__(self):
                super().__init__(nn.Flatten(), nn.Linear(108, 5))
        ''')
        from memory_defense.systems.own_model import build_user_model
        build_user_model("mine:Net", classes=5, channels=3, size=6)
        """,
    ),
    Case(
        "systems/inputs.py",
        "which has neither 1 nor 3 channels",
        "InputForm.of_shape((None, 4, 8, 8), 'four.onnx')",
        """
        code("mine.py", '''
        class Net(nn.Sequential):
            def __init__(self):
                super().__init__(nn.ZeroPad3d((0, 0, 0, 0, 0, 1)), nn.Flatten(), nn.Linear(144, 5))
        ''')
        from memory_defense.systems.own_model import build_user_model
        build_user_model("mine:Net", classes=5, channels=3, size=6)
        """,
    ),
    Case(
        "systems/onnx_foreign.py",
        "does not exist, or is not a file; give the path of an ONNX model",
        "load_onnx(Path('theirs.onnx'))",
        "load_onnx(Path('mine.onnx'))",
        given=ONNX,
    ),
    Case(
        "systems/onnx_foreign.py",
        "takes images in [0, 1] as exported; leave --preprocess … out",
        "load_onnx(Path('c.onnx'), Preprocessing.parse('255'))",
        "load_onnx(Path('c.onnx'))",
        given=f"{TARGET}\nmemdef('memdef export onnx:mine.onnx --data data --format onnx --out c.onnx')",
    ),
    Case(
        "systems/onnx_foreign.py",
        "leave all but bgr out of --preprocess …",
        "load_onnx(Path('levels.onnx'), Preprocessing.parse('bgr,127'))",
        "load_onnx(Path('levels.onnx'), Preprocessing.parse('«leave all but (bgr) out»'))",
        given=f"{MADE}\nwrite_onnx(Levels(small), (pixels * 255).to(torch.uint8), Path('levels.onnx'))",
    ),
    Case(
        "systems/onnx_foreign.py",
        "but a classifier takes one input of images, …; export the classifier alone",
        """
        write_onnx(nn.Embedding(4, 2), torch.zeros(2, 3, dtype=torch.long), Path("x.onnx"))
        load_onnx(Path("x.onnx"))
        """,
        "load_onnx(Path('mine.onnx'))",
        given=ONNX,
    ),
    Case(
        "systems/onnx_foreign.py",
        "onnx2fx, which converts to torch, is not installed: pip install 'memory-defense[models]'",
        """
        sys.modules["onnx2fx"] = None
        raise ValueError(load_onnx(Path("mine.onnx")).notes[0])
        """,
        r"""
        from importlib.metadata import requires
        extra = "«memory-defense\[(\w+)\]»"
        assert any(one.startswith("«since (\w+),»") and extra in one for one in requires("memory-defense"))
        sys.modules["onnx2fx"] = installed
        assert "as onnx2fx" in load_onnx(Path("mine.onnx")).notes[0]
        """,
        given=f"{ONNX}\nimport sys\nimport onnx2fx as installed",
    ),
    Case(
        "systems/onnx_foreign.py",
        "what it says about its classifier is damaged (…: …); export it again",
        "load_onnx(Path('mine.onnx'))",
        """
        write_onnx(small, pixels, Path('mine.onnx'))
        memdef('memdef export onnx:mine.onnx --data data --format onnx --out c.onnx')
        load_onnx(Path('c.onnx'))
        """,
        given=f"""{TARGET}
import onnx
model = onnx.load("mine.onnx")
onnx.helper.set_model_props(model, {{"memory_defense_classifier": "oops"}})
onnx.save(model, "mine.onnx")
""",
    ),
    Case(
        "systems/onnx_foreign.py",
        "write or download it again, with the files of its weights beside it where it has any",
        "load_onnx(Path('mine.onnx'))",
        "write_onnx(small, pixels, Path('mine.onnx')); load_onnx(Path('mine.onnx'))",
        given=f"{ONNX}\nPath('mine.onnx').write_bytes(Path('mine.onnx').read_bytes()[:-500])",
    ),
    Case(
        "systems/own_model.py",
        "leave --argument out, or name the function that makes it",
        "build_user_model('mine:whole', classes=5, channels=3, size=6, arguments={'depth': 1})",
        """
        build_user_model('mine:whole', classes=5, channels=3, size=6)
        build_user_model('mine:make', classes=5, channels=3, size=6, arguments={'depth': 1})
        """,
        given="""
        code("mine.py", '''
        def make(depth):
            return nn.Sequential(nn.Flatten(), nn.Linear(108, 5))

        whole = make(1)
        ''')
        """,
    ),
    Case(
        "systems/program_model.py",
        "does not exist, or is not a file; give the path of a program of torch.export",
        "load_program(Path('theirs.pt2'))",
        "load_program(Path('mine.pt2'))",
        given=f"{MADE}\nwrite_program(small, pixels, Path('mine.pt2'))",
    ),
    Case(
        "systems/program_model.py",
        "write it with torch.export.save(torch.export.export(model.eval(), (images,)), FILE)",
        "torch.save(small.state_dict(), 'mine.pt2'); load_program(Path('mine.pt2'))",
        """
        model, images, FILE = small, pixels, "mine.pt2"
        «write it with (.*)$»
        load_program(Path(FILE))
        """,
        given=MADE,
    ),
    Case(
        "systems/program_model.py",
        "call model.eval() before torch.export.export",
        "load_program(write_program(model.train(), pixels, Path('mine.pt2')))",
        "«call (model.eval\\(\\))»; load_program(write_program(model, pixels, Path('mine.pt2')))",
        given=f"{MADE}\nmodel = nn.Sequential(small, nn.Dropout(0.5))",
    ),
    Case(
        "systems/program_model.py",
        "expected images alone; export a module that takes images alone",
        """
        torch.export.save(torch.export.export(Two(), (pixels, pixels)), "two.pt2")
        load_program(Path("two.pt2"))
        """,
        "load_program(write_program(small, pixels, Path('mine.pt2')))",
        given=MADE + "\nclass Two(nn.Module):\n    def forward(self, a, b):\n        return (a + b).flatten(1)\n",
    ),
    Case(
        "systems/program_model.py",
        "export it again, with the batch as a dynamic dimension",
        "load_program(write_program(Any(), pixels, Path('mine.pt2'), batch=False))",
        "load_program(write_program(small, pixels, Path('mine.pt2')))",
        given=MADE
        + "\nclass Any(nn.Module):\n    def forward(self, pixels):\n        return {'logits': small(pixels)}\n",
    ),
    hf(
        "convert them once with: memdef convert … …",
        f"torch.save(model.state_dict(), 'vit/pytorch_model.bin'); Path('vit/model.safetensors').unlink(); {READ}",
        rf"memdef('«with: (memdef convert \S+ \S+)$»'); {READ}",
    ),
    hf(
        "save the fine-tuned classifier itself with save_pretrained",
        f"""
        from safetensors.torch import save_file
        save_file(model.vit.state_dict(), "vit/model.safetensors", {{"format": "pt"}})
        {READ}
        """,
        f"model.«with (save_pretrained)»('vit'); {READ}",
    ),
    hf(
        "set it to false where it does not matter",
        f"processor(do_pad=True); {READ}",
        f"processor(do_pad=json.loads('«set it to (false)»')); {READ}",
    ),
    hf(
        "give --geometry",
        f"processor(do_resize=True, size={{'longest_edge': 8}}); {READ}",
        f"""
        processor(do_resize=False)
        {READ}
        from memory_defense.data.geometry import Geometry
        Geometry.parse("resize=8")
        """,
    ),
    hf(
        "holds no table of settings; save the model again with save_pretrained",
        f"Path('vit/config.json').write_text('[]'); {READ}",
        f"model.«with (save_pretrained)»('vit'); {READ}",
    ),
    hf(
        "cannot be read (…: …); save the model again with save_pretrained",
        f"Path('vit/config.json').write_text('oops'); {READ}",
        f"model.«with (save_pretrained)»('vit'); {READ}",
    ),
    hf(
        "write the folder with save_pretrained of a model ...ForImageClassification",
        f"Path('vit/config.json').write_text(json.dumps({{'model_type': 'bert'}})); {READ}",
        f"model.«with (save_pretrained)»('vit'); {READ}",
    ),
    Case(
        "systems/convert.py",
        "holds no tensor (…); save model.state_dict() with torch.save",
        "torch.save({'epoch': 3}, 'w.pth'); convert(Path('w.pth'), Path('w.safetensors'))",
        "torch.save(model.state_dict(), 'w.pth'); convert(Path('w.pth'), Path('w.safetensors'))",
        given="model = net",
    ),
    Case(
        "systems/convert.py",
        "save its weights alone in the program that made it: torch.save(model.state_dict(), FILE)",
        "torch.save(model, FILE); convert(Path(FILE), Path('w.safetensors'))",
        "«made it: (.*)$»; convert(Path(FILE), Path('w.safetensors'))",
        given="model, FILE = net, 'w.pth'",
    ),
    Case(
        "systems/convert.py",
        "save model.state_dict() with torch.save, or a whole program with torch.export.save",
        "Path('w.pth').write_bytes(b'PK\\x03\\x04 and no more'); convert(Path('w.pth'), Path('w.safetensors'))",
        "torch.save(model.state_dict(), 'w.pth'); convert(Path('w.pth'), Path('w.safetensors'))",
        given="model = net",
    ),
    Case(
        "systems/classifier_export.py",
        "can only be asked, not traced; copy the file itself, which other programs run as it is",
        "memdef('memdef export onnx:mine.onnx --data data --format onnx --out c.onnx')",
        "shutil.copy('mine.onnx', 'c.onnx'); load('c.onnx')",
        given=f"{TARGET}\nimport sys; sys.modules['onnx2fx'] = None",
    ),
    Case(
        "systems/classifier_export.py",
        "more than …, so it is not written; …",
        "export_classifier(Counts(), Path('c.onnx'), pixels, about)",
        "«(evaluate) it as it is»(Counts(), pixels, [0, 1], epsilon=0.1, attacks='fgsm')",
        given=f"""{MADE}
about = Described(classes=("a", "b"), geometry="", source="mine", notes=())
class Counts(nn.Module):
    def forward(self, pixels):
        return pixels.mean((2, 3))[:, :2] * float(len(pixels))
""",
        ends="evaluate it as it is, or write it as a program with torch.export.save",
    ),
    Case(
        "systems/classifier_export.py",
        "evaluate it as it is, or write it as a program with torch.export.save",
        "export_classifier(Untraceable(), Path('c.onnx'), pixels, about)",
        "«(evaluate) it as it is»(Untraceable(), pixels, [0, 1], epsilon=0.1, attacks='fgsm')",
        given=f"""{MADE}
about = Described(classes=("a", "b"), geometry="", source="mine", notes=())
class Untraceable(nn.Module):
    def forward(self, pixels):
        return torch.linalg.lu_factor(pixels[:, 0])[0][:, 0, :2]
""",
    ),
    Case(
        "cli/own_options.py",
        "only for package.module:build, but … is a run directory",
        "memdef('memdef predict run data --preprocess 255 --gate 0.1')",
        "memdef('memdef predict run data --data fashion-mnist')",
        given="run(); folder(size=28)",
    ),
)
