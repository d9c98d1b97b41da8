"""Messages of what the commands do: hardening, predicting, offline attacks, and the images of a run."""

from remedies.cases import Case

ROOMS = tuple(f"workflows/{name}.py" for name in ("assess", "harden", "maite", "offline", "predict", "run_images"))

RUN = """
from memory_defense.run_directory import RunDirectory
hardened()
run = RunDirectory(Path("run"))
manifest = Path("run/manifest.json")

def change(**entries):
    run.write({**json.loads(manifest.read_text()), **entries})
"""
IMAGES_FROM = f"{RUN}\nfrom memory_defense.workflows.run_images import splits_of\n"
HARDEN = (
    "memdef harden shapes_net:{} --weights shapes.safetensors --data shapes --epochs 1 --attacks fgsm --images 2"
)
CLASSIFIER = """
from dataclasses import replace
from memory_defense.data.images import ImageSet
photos = ImageSet(images, labels, torch.arange(8))
"""


def _from(says: str, given: str, right: str) -> Case:
    """Return a case of the images that a run was trained on."""
    return Case("workflows/run_images.py", says, "splits_of(run)", right, f"{IMAGES_FROM}\n{given}")


def _trainable(says: str, wrong: str) -> Case:
    """Return a case of a classifier that cannot be fine-tuned; it is changed, or hardened as it is."""
    return Case(
        "workflows/harden.py",
        says,
        "_check_trainable('mine:net', mine, photos)",
        f"""
        assert "«(--no-fine-tune)»" in {HARDEN.format("build") + " --no-fine-tune --out again"!r}
        _check_trainable("mine:net", net, photos)
        """,
        f"{CLASSIFIER}\n{wrong}",
    )


CASES = (
    Case(
        "workflows/assess.py",
        "--detection: … has no scores, so there is no flag to evaluate; leave it out",
        "memdef('memdef evaluate run --detection --attacks fgsm --images 2')",
        "memdef('memdef evaluate run --attacks fgsm --images 2')",
        given="untrained('fashion-mnist/tiny/resnet-benign')",
    ),
    Case(
        "workflows/harden.py",
        "there is no file …; save your classifier with safetensors.torch.save_file",
        "weights_sha256(Path('mine.safetensors'))",
        """
        import safetensors
        «with (.*)»(net.state_dict(), "mine.safetensors")
        weights_sha256(Path("mine.safetensors"))
        """,
    ),
    _trainable(
        "… in train mode answers with …, not logits; …",
        """
class Two(nn.Sequential):
    def forward(self, images):
        answer = super().forward(images)
        return (answer, answer) if self.training else answer

mine = Two(*net)
""",
    ),
    _trainable(
        "no finite gradient reaches its images, and fine-tuning needs one; …",
        """
class Steps(nn.Sequential):
    def forward(self, images):
        return super().forward((images > 0.5).float())

mine = Steps(*net)
""",
    ),
    _trainable(
        "… in train mode raised …: …; …",
        """
class Fragile(nn.Sequential):
    def forward(self, images):
        if self.training:
            raise RuntimeError("cannot be trained")
        return super().forward(images)

mine = Fragile(*net)
""",
    ),
    Case(
        "workflows/harden.py",
        "change it, or harden it as it is with --no-fine-tune",
        f"memdef('{HARDEN.format('hard')} --out new')",
        f"memdef('{HARDEN.format('hard')} --out new «with (--no-fine-tune)»')",
        given="hardened()",
    ),
    Case(
        "workflows/harden.py",
        "share their weights; give each its own, and save again",
        "check_untied('mine:net', tied)",
        """
        import copy
        tied[1] = copy.deepcopy(tied[1])
        check_untied("mine:net", tied)
        """,
        given="layer = nn.Linear(4, 4); tied = nn.Sequential(layer, layer)",
    ),
    Case(
        "workflows/harden.py",
        "holds another run (… is …, not …); choose another directory",
        "begin('run')",
        "begin('another')",
        given="""
        from dataclasses import replace
        from memory_defense.recipes.hardened import harden_recipe, kept_hardening
        from memory_defense.data.spec import image_spec
        from memory_defense.run_directory import RunDirectory
        from memory_defense.workflows.run_images import kept_images_from
        from memory_defense.data.own import load_splits
        hardened()
        place = Path("run/manifest.json")
        manifest, splits = json.loads(place.read_text()), load_splits("shapes")
        hardening = replace(kept_hardening(manifest, place), weights_sha256="0" * 64)
        recipe = harden_recipe(hardening, "shapes", image_spec(splits.spec), len(splits.train))

        def begin(out):
            source = kept_images_from(manifest, place)
            begin_run(RunDirectory(Path(out)), recipe, {KEY: asdict(hardening)}, source, splits, seed=0)
        """,
    ),
    Case(
        "workflows/offline.py",
        "round them first, or train on attacks made as it goes (training.adversarial.Online)",
        "attacked_bytes(photos, net, Pgd(steps=2), threat.Linf(0.1), 0)",
        r"""
        from memory_defense import training
        import memory_defense.training.adversarial
        from memory_defense.training.fit import FitConfig, fit
        rounded = replace(photos, images=(images * 255).round().to(torch.uint8))
        attacked_bytes(rounded, net, Pgd(steps=2), threat.Linf(0.1), 0)
        online = «\((training\.adversarial\.Online)\)»(attack=Pgd(steps=2))
        fit(net, online, photos, FitConfig(epochs=1, batch_size=4), seed=0)
        """,
        given=CLASSIFIER,
    ),
    Case(
        "workflows/offline.py",
        "is not part of this set of adversarial images; delete it to make it again",
        "attacked_bytes(rounded, net, Pgd(steps=2), threat.Linf(0.1), 0, Workshop(Path('parts')))",
        """
        Path("«(.*) is not part»").unlink()
        attacked_bytes(rounded, net, Pgd(steps=2), threat.Linf(0.1), 0, Workshop(Path("parts")))
        """,
        given=f"""{CLASSIFIER}
rounded = replace(photos, images=(images * 255).round().to(torch.uint8))
attacked_bytes(rounded.first(3), net, Pgd(steps=2), threat.Linf(0.1), 0, Workshop(Path("parts")))
""",
    ),
    Case(
        "workflows/predict.py",
        "batch is …, but at least 1 picture must be held at once",
        "list(predict(defense, flag, [], classes=('cat', 'dog'), batch=0))",
        r"list(predict(defense, flag, [], classes=('cat', 'dog'), batch=«at least (\d)»))",
        given="""
        from memory_defense.evaluation.flag import Flag
        defense = load(run())
        flag = Flag(score="reconstruction", threshold=0.1, false_alarms=0.05, calibration_images=100)
        """,
    ),
    Case(
        "workflows/predict.py",
        "has no scores, so it cannot flag an image; choose a run whose system has",
        "memdef('memdef predict run photo.png')",
        "memdef('memdef predict other photo.png')",
        given="""
        untrained("fashion-mnist/tiny/resnet-benign")
        run("other")
        Image.new("L", (28, 28)).save("photo.png")
        """,
    ),
    _from(
        "does not say where its images are; give them by --data",
        "change(images_from=None)",
        "splits_of(run, source='shapes'); memdef('memdef evaluate run «by (--data)» shapes --images 2')",
    ),
    _from(
        "was trained on the images in …, which is not there; give --data",
        "change(images_from={**json.loads(manifest.read_text())['images_from'], 'source': '/gone'})",
        "splits_of(run, source='shapes')",
    ),
    _from(
        "restore them, or give --data … to use them as they are",
        """
place = Path(json.loads(manifest.read_text())["images_from"]["source"])
shutil.copytree(place, "moved")
change(images_from={**json.loads(manifest.read_text())["images_from"], "source": str(Path("moved").absolute())})
one = next(Path("moved/train").rglob("*.png"))
one.unlink()
""",
        """
splits_of(run, source="«--data (.*) to use»")
shutil.copy(next(place.rglob(f"train/{one.parent.name}/{one.name}")), one)
splits_of(run)
""",
    ),
    Case(
        "workflows/run_images.py",
        "give images of the same classes",
        "save(['car', 'van', 'bus']); splits_of(run, source='mine.npz')",
        "save(['bar', 'disc', 'square']); splits_of(run, source='mine.npz')",
        f"""{IMAGES_FROM}
def save(classes):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3), dtype=np.uint8)
    parts = {{"train_images": pixels, "train_labels": np.arange(6) % 3}}
    parts |= {{"test_images": pixels, "test_labels": np.arange(6) % 3}}
    np.savez("mine.npz", **parts, classes=np.array(classes))
""",
    ),
    Case(
        "workflows/run_images.py",
        "convert them",
        "splits_of(run, source='grey')",
        """
        for file in Path("grey").rglob("*.png"):
            Image.open(file).convert("RGB").save(file)
        splits_of(run, source="grey")
        """,
        f"""{IMAGES_FROM}
shutil.copytree("shapes", "grey")
for file in Path("grey").rglob("*.png"):
    Image.open(file).convert("L").save(file)
""",
    ),
    _from(
        "is damaged; remove this entry and 'checksum', and give the images by --data",
        "change(images_from={'source': 3})",
        r"""
kept = json.loads(manifest.read_text())
for name in ("«'(\w+)' is damaged»", "«and '(\w+)', and»"):
    del kept[name]
manifest.write_text(json.dumps(kept))
splits_of(run, source="shapes")
""",
    ),
    Case(
        "workflows/maite.py",
        "the target of item … is …, expected one number for each class (K,), such as [0., 1., 0.]",
        "evaluate_maite(MaiteModel(net, id='net'), Numbers(images, labels, id='m', classes='abcd'), epsilon=0.1)",
        """
        assert len(«such as (.*)$») == 3
        whole = MaiteDataset(images, labels, id="mine", classes="abcd")
        evaluate_maite(MaiteModel(net, id="net"), whole, epsilon=0.1)
        """,
        given="""
        class Numbers(MaiteDataset):
            def __getitem__(self, index):
                image, target, about = super().__getitem__(index)
                return image, target.argmax(), about
        """,
    ),
    Case(
        "workflows/maite.py",
        "the dataset has no items; give one with at least 1 image",
        "evaluate_maite(MaiteModel(net, id='net'), first(0), epsilon=0.1)",
        r"evaluate_maite(MaiteModel(net, id='net'), first(«at least (\d)»), epsilon=0.1)",
        given="""
        def first(count):
            return MaiteDataset(images[:count], labels[:count], id="mine", classes="abcd")
        """,
    ),
)
