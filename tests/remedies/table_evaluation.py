"""Messages of evaluations: attacks and models that misbehave, flags, detection."""

from remedies.cases import Case

ROOMS = tuple(
    f"evaluation/{name}.py"
    for name in (
        "attempt",
        "comparison",
        "detection",
        "detection_results",
        "flag",
        "frames",
        "odd",
        "published",
        "verdicts",
    )
)

ATTACKED = """
from memory_defense.evaluation.robustness import Case, evaluate as attack_with
from memory_defense.defenses.undefended import Undefended
from memory_defense.randomness import ImageDraws

class Leap:
    def __init__(self, inside):
        self.inside = inside

    def __call__(self, model, images, labels, ball, draws):
        moved = images + 0.3
        return ball.project(moved, images) if self.inside else moved

    def for_transfer(self):
        return self

def attacked(attack, model=net):
    case = Case(name="mine", attack=attack, knowledge="end-to-end", ball=threat.Linf(0.1))
    return attack_with(Undefended(model), images, labels, [case])
"""
FLAGGING = """
from memory_defense.data.images import ImageSet
from memory_defense.evaluation.detection_results import detect
photos = ImageSet(torch.rand(24, 1, 28, 28), torch.zeros(24, dtype=torch.int64), torch.arange(24))
how = {"attacks": [("pgd", Pgd(steps=2), threat.Linf(0.1))], "false_alarms": 0.2}
"""

WRITTEN = "record = evaluate(net, images, labels, epsilon=0.1, attacks='fgsm', out='r.json')"

CASES = (
    Case(
        "evaluation/attempt.py",
        "its result is refused: fix the attack's projection",
        "attacked(Leap(inside=False))",
        "attacked(Leap(inside=True))",
        ATTACKED,
    ),
    Case(
        "evaluation/attempt.py",
        "runs out of memory even with … in a pass; use a smaller network, or a device with more memory",
        "attacked(Pgd(steps=2), Large())",
        "attacked(Pgd(steps=2), net)",
        f"""{ATTACKED}
class Large(nn.Module):
    def forward(self, images):
        if torch.is_grad_enabled():
            raise torch.OutOfMemoryError("out of memory")
        return net(images)
""",
    ),
    Case(
        "evaluation/detection.py",
        "but a share of false alarms lies in [0, 1]; write 1 % as 0.01",
        "tpr_at_fpr(torch.rand(200), torch.rand(50), 1.5)",
        "tpr_at_fpr(torch.rand(200), torch.rand(50), «as (0.01)»)",
    ),
    Case(
        "evaluation/detection.py",
        "use at least …, or allow more false alarms",
        "conformal_threshold(torch.rand(50), 0.01)",
        r"conformal_threshold(torch.rand(«at least (\d+),»), 0.01); conformal_threshold(torch.rand(50), 0.05)",
    ),
    Case(
        "evaluation/detection_results.py",
        "give it scores, flag_score, flag_threshold and suspicious (contracts.Flagging)",
        "detect(nn.Sequential(nn.Flatten(), nn.Linear(784, 10)), photos, photos, **how)",
        "detect(load(run()), photos, photos, **how)",
        FLAGGING,
    ),
    Case(
        "evaluation/flag.py",
        "remove this entry and 'checksum', then choose it again with 'memdef evaluate RUN --detection'",
        "load('RUN')",
        r"""
        kept = json.loads(manifest.read_text())
        for name in ("«: '(\w+)' »", "«and '(\w+)', then»"):
            kept.pop(name, None)
        manifest.write_text(json.dumps(kept))
        load("RUN")
        memdef("«with '(memdef .*)'» --images 2 --attacks fgsm")
        load("RUN")
        """,
        """
        run("RUN")
        manifest = Path("RUN/manifest.json")
        RunDirectory(Path("RUN")).write({**json.loads(manifest.read_text()), "flag": {"score": 3}})
        """,
    ),
    Case(
        "evaluation/odd.py",
        "look for sqrt(0), log(0), 0/0 or overflow in its forward pass, or attack without gradients (square, "
        "hop-skip-jump)",
        "attacked(Pgd(steps=2), lambda images: net(images) + 0 * (images * 0).sqrt().flatten(1)[:, :4])",
        r"""
        attacked(Pgd(steps=2), lambda images: net(images) + 0 * (images * 0 + 1e-6).sqrt().flatten(1)[:, :4])
        attack = ATTACKS["«gradients \((\w+),»"](queries=5)
        attacked(attack, lambda images: net(images) + 0 * (images * 0).sqrt().flatten(1)[:, :4])
        """,
        f"from memory_defense.attacks import ATTACKS\n{ATTACKED}",
    ),
    Case(
        "evaluation/verdicts.py",
        "so there is no file of its images; give evaluate(..., out='record.json'), or read the record with "
        "Record.read('record.json')",
        "evaluate(net, images, labels, epsilon=0.1, attacks='fgsm').to_dataframe('image')",
        r"""
        evaluate(net, images, labels, epsilon=0.1, attacks="fgsm", «(out='record.json')»).to_dataframe("image")
        assert len(«(Record.read.'record.json'.)».to_dataframe("image")) == 8
        """,
    ),
    Case(
        "evaluation/verdicts.py",
        "is not there, where every image's verdict is kept beside …; bring it back, or evaluate again",
        "Path('r.images.safetensors').rename('away'); record.to_dataframe('image')",
        """
        Path("away").rename("«^([^ ]*) is not there»")
        record.to_dataframe("image")
        evaluate(net, images, labels, epsilon=0.1, attacks="fgsm", out="r.json").to_dataframe("image")
        """,
        given=WRITTEN,
    ),
    Case(
        "evaluation/verdicts.py",
        "is another record's, by its checksum; bring back the one of …",
        """
        shutil.copy("r.images.safetensors", "own")
        evaluate(net, images, labels, epsilon=0.2, attacks="fgsm", out="other.json")
        shutil.copy("other.images.safetensors", "r.images.safetensors")
        record.to_dataframe("image")
        """,
        "shutil.copy('own', '«^([^ ]*) is another»'); record.to_dataframe('image')",
        given=WRITTEN,
    ),
    Case(
        "evaluation/verdicts.py",
        "is not a file of per-image results (…); write it again",
        """
        from safetensors.torch import save_file
        save_file({"ids": labels}, "r.images.safetensors")
        record.model_copy(update={"per_image_sha256": ""}).to_dataframe("image")
        """,
        """
        evaluate(net, images, labels, epsilon=0.1, attacks="fgsm", out="r.json").to_dataframe("image")
        """,
        given=WRITTEN,
    ),
    Case(
        "evaluation/frames.py",
        "a data frame needs pandas, which is not installed: pip install 'memory-defense[records]'",
        "sys.modules['pandas'] = None; record.to_dataframe()",
        r"""
        import tomllib
        project = tomllib.loads(Path(memory_defense.__file__).parents[2].joinpath("pyproject.toml").read_text())
        brought = project["project"]["optional-dependencies"]["«memory-defense.(\w+)»"]
        assert any(one.startswith("«needs (\w+)»") for one in brought)
        sys.modules["pandas"] = installed
        record.to_dataframe()
        """,
        given="import sys, pandas as installed\n" + WRITTEN,
    ),
    Case(
        "evaluation/comparison.py",
        "a comparison needs at least 2 records, but … came; give another",
        "memory_defense.compare(record)",
        "memory_defense.compare(record, record)",
        given=WRITTEN,
    ),
    Case(
        "evaluation/comparison.py",
        "names has … names for … records; give one for each, or None",
        "memory_defense.compare(record, record, names=['one'])",
        """
        memory_defense.compare(record, record, names=["one", "two"])
        memory_defense.compare(record, record, names=«or (None)»)
        """,
        given=WRITTEN,
    ),
)
