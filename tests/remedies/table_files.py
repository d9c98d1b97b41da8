"""Messages about files: whose they are, whether they are whole, and whether they can be written."""

from remedies.cases import Case

ROOMS = (
    "checksums.py",
    "evaluation/kept.py",
    "evaluation/log.py",
    "evaluation/place.py",
    "evaluation/record.py",
    "evaluation/results.py",
    "evaluation/shared_logs.py",
    "evaluation/store.py",
    "files.py",
    "outputs.py",
    "run_directory.py",
    "workflows/train.py",
)

EVALUATED = """
def evaluated(model=net, out="r.json", epsilon=0.1, **more):
    return memory_defense.evaluate(model, images, labels, epsilon=epsilon, attacks="fgsm", out=out, **more)

def flip(path, place):
    content = bytearray(Path(path).read_bytes())
    content[place] ^= 1
    Path(path).write_bytes(content)
"""
STOPPED = (
    EVALUATED
    + """
class Stops:
    def begin(self, what, total):
        pass

    def note(self, text):
        pass

    def advance(self, steps, text=""):
        raise KeyboardInterrupt

def stopped(model=net):
    try:
        evaluated(model, options=Options(progress=Stops()))
    except KeyboardInterrupt:
        return "r.progress.log"
"""
)
RUN = """
from memory_defense.recipes.fashion_mnist import TINY

def begin(place="run", seed=0, count=100, images="a" * 64, recipe=TINY, resume=True):
    return RunDirectory(Path(place)).begin(recipe, seed, count, images, resume=resume)
"""
FIT = """
from memory_defense.data.images import ImageSet
from memory_defense.training.adversarial import Benign
from memory_defense.training.fit import FitConfig, fit
data, others = (ImageSet(pixels, torch.arange(8) % 4, torch.arange(8)) for pixels in (images, images.flip(0)))
state = Path("state.safetensors")
plain = lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 4), nn.Identity())
other = lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 4), nn.Tanh())
config = FitConfig(epochs=2, batch_size=4, compile=False)

class Stops:
    def begin(self, what, total):
        pass

    def note(self, text):
        pass

    def advance(self, steps, text=""):
        if steps:
            raise KeyboardInterrupt

def trained(model, images, progress=None):
    return fit(model, Benign(), images, config, seed=0, state=state, progress=progress)

try:
    trained(plain(), data, Stops())
except KeyboardInterrupt:
    pass
"""

CASES = (
    Case(
        "checksums.py",
        "its content is not what its checksum says; restore it, or make it again; if you changed it yourself",
        "Record.read(Path('r.json'))",
        """
        said = json.loads(Path("r.json").read_text())
        del said[«entry '(checksum)'»]
        Path("r.json").write_text(json.dumps(said))
        assert Record.read(Path("r.json")).defense == "another name"
        evaluated(out="again.json")
        """.replace("«entry '(checksum)'»", "'«entry .(checksum).»'"),
        given=EVALUATED
        + """
evaluated()
Path("r.json").write_text(Path("r.json").read_text().replace("a classifier", "another name"))
""",
    ),
    Case(
        "tensorfiles.py",
        "is damaged: its content is not what its checksum says; restore it, or remove it and make it again",
        "read_tensors(Path('r.images.safetensors'))",
        """
        Path("«(r.images.safetensors) is damaged»").unlink()
        evaluated()
        read_tensors(Path("r.images.safetensors"))
        """,
        given=EVALUATED + "evaluated()\nflip('r.images.safetensors', -5)\n",
    ),
    Case(
        "systems/onnx_run.py",
        "is damaged: its content is not what its checksum says",
        "memory_defense.load('mine.onnx')",
        "memdef(\"«'(memdef export RUN --format onnx --out mine.onnx --force)'»\".replace('RUN', 'run'))\n"
        "memory_defense.load('mine.onnx')",
        given=EVALUATED
        + "run()\nmemdef('memdef export run --format onnx --out mine.onnx')\nflip('mine.onnx', -400)\n",
    ),
    Case(
        "cli/report.py",
        "already exists and is not a report of this program; choose another name, or remove it",
        "memdef('memdef report r.json --out mine.html')",
        """
        memdef("memdef report r.json --out other.html")
        Path("«(mine.html) already exists»").unlink()
        memdef("memdef report r.json --out mine.html")
        """,
        given=EVALUATED + "evaluated()\nPath('mine.html').write_text('my page')\n",
    ),
    Case(
        "evaluation/kept.py",
        "belongs to another classifier: it gives other answers now",
        "check_still_its_own(record, Path('r.json'), nn.Sequential(net, nn.Tanh()), images, torch.arange(8))",
        "check_still_its_own(record, Path('r.json'), net, images, torch.arange(8))",
        given=EVALUATED + "record = evaluated()\n",
    ),
    Case(
        "evaluation/kept.py",
        "contradict each other: …; evaluate again, or remove … if it is another evaluation's",
        "memdef('memdef report r.json')",
        """
        Path("«or remove (\\S+) if»").unlink()
        memdef("memdef report r.json")
        evaluated(epsilon=0.2)
        memdef("memdef report r.json")
        """,
        given=EVALUATED
        + "evaluated()\nevaluated(out='s.json', epsilon=0.2)\n"
        + "shutil.copy('s.images.safetensors', 'r.images.safetensors')\n",
    ),
    Case(
        "evaluation/place.py",
        "would share …; choose another name, or remove …",
        "evaluated(out='r.json')",
        """
        evaluated(out="another.json")
        Path("«or remove (\\S+)»").unlink()
        evaluated(out="r.json")
        """,
        given=EVALUATED + "evaluated(out='r')\n",
    ),
    Case(
        "evaluation/place.py",
        "already exists and is not a record (…); choose another name, or remove it",
        "evaluated(out='r.json')",
        """
        evaluated(out="another.json")
        Path("«(r.json) already exists»").unlink()
        evaluated(out="r.json")
        """,
        given=EVALUATED + "Path('r.json').write_text('{}')\n",
    ),
    Case(
        "evaluation/record.py",
        "contradicts itself: …; restore it, or evaluate again",
        "Record.read(Path('r.json'))",
        """
        Path("r.json").unlink()
        evaluated()
        Record.read(Path("r.json"))
        """,
        given=EVALUATED
        + """
evaluated()
said = json.loads(Path("r.json").read_text())
said["clean"]["ci95"] = [0.1, 0.2]
Path("r.json").write_text(json.dumps(said))
""",
    ),
    Case(
        "evaluation/results.py",
        "is not a file of per-image results (…); write it again",
        "evaluated(options=Options(start_from='mine.safetensors'))",
        "evaluated(out='old.json')\nevaluated(options=Options(start_from='old.images.safetensors'))",
        given=EVALUATED
        + "from memory_defense.tensorfiles import write_tensors\n"
        + "write_tensors(Path('mine.safetensors'), {'a': torch.ones(1)})\n",
    ),
    Case(
        "evaluation/store.py",
        "or a processor that rounds differently); remove it to start over, or write to another place",
        "evaluated(epsilon=0.2)",
        """
        evaluated(epsilon=0.2, out="another.json")
        Path("«(r.progress.log) belongs»").unlink()
        evaluated(epsilon=0.2)
        """,
        given=STOPPED + "stopped()\n",
    ),
    Case(
        "evaluation/robustness.py",
        "was left by an evaluation in another number of processes; go on in as many, or remove it to start over",
        "evaluated()",
        "Path('«^(.+) was left»').unlink()\nevaluated()",
        given=STOPPED
        + """
stopped()
Path("r.progress.log").rename("r.progress.log.rank-1")
""",
    ),
    Case(
        "evaluation/store.py",
        "the classifier gives other answers now, on … of … clean images; remove it to start over",
        "evaluated(mended)",
        """
        evaluated(mended, out="another.json")
        Path("«(r.progress.log) belongs»").unlink()
        evaluated(mended)
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
        "evaluation/store.py",
        "is damaged (…); remove it to start over",
        "evaluated()",
        "Path('«(r.progress.log) is damaged»').unlink()\nevaluated()",
        given=STOPPED
        + """
from memory_defense.evaluation.log import Log
stopped()
entries = list(Log(Path("r.progress.log")).entries())
Path("r.progress.log").unlink()
tensors, header, _ = entries[0]
Log(Path("r.progress.log")).append({**tensors, "lead": tensors["lead"][:3]}, header)
""",
    ),
    Case(
        "evaluation/store.py",
        "which stored the state of an evaluation differently; finish it with that version, or remove it to start "
        "over",
        "evaluated()",
        "Path('«^(.+) was left»').unlink()\nevaluated()",
        given=STOPPED + "Path('r.progress.safetensors').write_bytes(b'earlier')\n",
    ),
    Case(
        "evaluation/log.py",
        "is not a log of this version; go on with the version that wrote it, or remove it to start over",
        "evaluated()",
        "Path('«^(.+) is not a log»').unlink()\nevaluated()",
        given=STOPPED + "Path('r.progress.log').write_bytes(b'another version')\n",
    ),
    Case(
        "evaluation/log.py",
        "remove it to start over, or cut it there to go on from what is before: truncate -s … …",
        "evaluated()",
        "import os\nos.truncate('r.progress.log', int('«truncate -s (\\d+)»'))\nevaluated()",
        given=STOPPED + "stopped()\nflip('r.progress.log', -5)\n",
    ),
    Case(
        "evaluation/log.py",
        "ends before an image that it holds; restore it, or start over without it",
        "os.truncate('a.log', 30)\nlog.blob(place)",
        "Path('a.log').write_bytes(whole)\nassert log.blob(place) == b'image'",
        given="""
import os
from memory_defense.evaluation.log import Log, with_length
log = Log(Path("a.log"))
(place,) = log.append({}, {}, [with_length(b"image")])
whole = Path("a.log").read_bytes()
""",
    ),
    Case(
        "evaluation/shared_logs.py",
        "give all ranks the same out, in a folder that every one of them sees",
        "shared('elsewhere')",
        "shared('r.rank-1')",
        given="""
from memory_defense.evaluation.log import Log
from memory_defense.evaluation.shared_logs import beside

class Two:
    rank, world = 0, 2

    def gather(self, tensors):
        return [tensors, tensors]

    def agree(self, fault):
        if fault:
            raise ValueError(fault)

def shared(other):
    Log(Path(other))
    return beside(Path("r"), Log(Path("r.rank-0")), Two())
""",
    ),
    Case(
        "files.py",
        "is a folder; give the path of a .safetensors file",
        "Path('old.images').mkdir()\nevaluated(options=Options(start_from='old.images'))",
        "evaluated(out='old.json')\nevaluated(options=Options(start_from='old.images«path of a (.*) file»'))",
        given=EVALUATED,
    ),
    Case(
        "files.py",
        "does not exist; make it first, or give the path of a .safetensors file",
        "evaluated(options=Options(start_from='missing.safetensors'))",
        "evaluated(out='old.json')\nevaluated(options=Options(start_from='old.images.safetensors'))",
        given=EVALUATED,
    ),
    Case(
        "files.py",
        "wait until it is done, stop it and give the same command again, or write to another place (out)",
        """
        with locked(Path("r.progress.log")):
            evaluated()
        """,
        "evaluated(out='another.json')\nevaluated()",
        given=EVALUATED,
        within="is being written by …; …",
    ),
    Case(
        "files.py",
        "choose another place (out)",
        "write_text(Path('place/r.json'), '{}')",
        "write_text(Path('elsewhere/r.json'), '{}')",
        given="Path('place').write_text('a file')\n",
        within="Nothing half-written is left and what was finished before is kept",
    ),
    Case(
        "files.py",
        "choose a place that you may write to (out)",
        "write_text(Path('theirs/r.json'), '{}')",
        "write_text(Path('mine/r.json'), '{}')",
        given="Path('theirs').mkdir()\nPath('theirs').chmod(0o500)\n",
        within="Nothing half-written is left and what was finished before is kept",
    ),
    Case(
        "outputs.py",
        "choose a place that you may write to (out)",
        "evaluated(out='theirs/r.json')",
        "evaluated(out='mine/r.json')",
        given=EVALUATED + "Path('theirs').mkdir()\nPath('theirs').chmod(0o500)\n",
    ),
    Case(
        "outputs.py",
        "its names are too long for this file system, which allows … bytes (… has …, and what is written",
        "evaluated(out='n' * 240 + '.json')",
        """
        limit, longer = int("«allows (\\d+)»"), int("«beside it (\\d+) more»")
        evaluated(out="n" * (limit - longer - len(".json")) + ".json")
        """,
        given=EVALUATED,
    ),
    Case(
        "outputs.py",
        "is a file, not a folder; choose another place",
        "evaluated(out='file/r.json')",
        "evaluated(out='folder/r.json')",
        given=EVALUATED + "Path('file').write_text('')\n",
    ),
    Case(
        "outputs.py",
        "is a file; choose a folder",
        "check_folder(Path('file'))",
        "check_folder(Path('folder'))",
        given="Path('file').write_text('')\n",
    ),
    Case(
        "outputs.py",
        "is read as well (…) and would be lost; choose another name to write to",
        "evaluated(options=Options(start_from='r.images.safetensors'))",
        "evaluated(out='another.json', options=Options(start_from='r.images.safetensors'))",
        given=EVALUATED + "evaluated()\n",
    ),
    Case(
        "outputs.py",
        "is a folder; name the file to write, such as …",
        "evaluated(out='results')",
        "evaluated(out='«such as (results/record.json)»')",
        given=EVALUATED + "Path('results').mkdir()\n",
    ),
    Case(
        "outputs.py",
        "is a device or the like, not a file; choose another name",
        "evaluated(out='/dev/null')",
        "evaluated(out='r.json')",
        given=EVALUATED,
    ),
    Case(
        "outputs.py",
        "is read-only and stays as it is; choose another name, or make it writable",
        "evaluated()",
        """
        evaluated(out="another.json")
        Path("«(r.json) is read-only»").chmod(0o644)
        evaluated()
        """,
        given=EVALUATED + "evaluated()\nPath('r.json').chmod(0o444)\n",
    ),
    Case(
        "run_directory.py",
        "so its options or the version of memory-defense differ and its stages cannot be continued",
        "begin(recipe=changed)",
        "begin('other', recipe=changed)\nbegin()",
        given=RUN + "from dataclasses import replace\nbegin()\nchanged = replace(TINY, summary='another')\n",
    ),
    Case(
        "run_directory.py",
        "holds another run (… is …, not …); choose another directory",
        "begin(seed=1)",
        "begin('other', seed=1)",
        given=RUN + "begin()\n",
    ),
    Case(
        "run_directory.py",
        "it was trained on other images (their SHA-256 was …, now it is …); bring those back, or choose another",
        "begin(images='b' * 64)",
        "begin(images='a' * 64)\nbegin('other', images='b' * 64)",
        given=RUN + "begin()\n",
    ),
    Case(
        "run_directory.py",
        "is not a run but already holds …, which one would replace; choose another directory",
        "begin()",
        "begin('other')",
        given=RUN + "Path('run').mkdir()\nPath('run/weights.safetensors').write_text('mine')\n",
    ),
    Case(
        "run_directory.py",
        "already holds a run; continue it with --resume or choose another directory",
        "memdef('memdef train fashion-mnist/tiny --train-images 100 --out run')",
        "memdef('memdef train fashion-mnist/tiny --train-images 100 --out run «with (--resume)»')",
        given="run()\n",
    ),
    Case(
        "run_directory.py",
        "is not a run directory: it has no manifest.json; train one with 'memdef train' (a model of another kind "
        "is given as zoo:NAME, package.module:build, hf:DIR, onnx:FILE or FILE.pt2)",
        "memory_defense.load('run')",
        "memdef(\"«'(memdef train)'» fashion-mnist/tiny --train-images 100 --out run\")\n"
        "memory_defense.load('run')",
    ),
    Case(
        "run_directory.py",
        "is not finished; continue it with 'memdef train --resume'",
        "memory_defense.load('run')",
        "memdef(\"«'(memdef train --resume)'» fashion-mnist/tiny --train-images 100 --out run\")\n"
        "memory_defense.load('run')",
        given="mine = RunDirectory(run())\nmine.write({**mine.read(), 'complete': False})\n",
    ),
    Case(
        "run_directory.py",
        "says … memory items, more than … can hold; restore it, or train again into a new directory",
        "memory_defense.load('run')",
        "mine.write(manifest)\nmemory_defense.load('run')",
        given="""
        mine = RunDirectory(run())
        manifest = mine.read()
        mine.write({**manifest, "model": {**manifest["model"], "memory_size": 10**9}})
        """,
    ),
    Case(
        "run_directory.py",
        "is a run directory and stays one; choose another folder",
        "memdef('memdef export run --format hub-folder --out run')",
        "memdef('memdef export run --format hub-folder --out hub')",
        given="run(evaluated=True)\n",
    ),
    Case(
        "run_directory.py",
        "already holds …; give --force to replace it, or another folder",
        "memdef('memdef export run --format hub-folder --out hub')",
        "memdef('memdef export run --format hub-folder --out hub «give (--force)»')",
        given="run(evaluated=True)\nmemdef('memdef export run --format hub-folder --out hub')\n",
    ),
    Case(
        "run_directory.py",
        "has no record.json, and a model card states what an evaluation found; make one with: memdef evaluate …",
        "memdef('memdef export run --format hub-folder --out hub')",
        "memdef('«make one with: (memdef evaluate run)» --images 5 --epsilon 0.1 --out run/record.json')\n"
        "memdef('memdef export run --format hub-folder --out hub')",
        given="run()\n",
    ),
    Case(
        "run_directory.py",
        "is damaged (…); train again into a new directory",
        "memory_defense.load('run')",
        "memdef('memdef train fashion-mnist/tiny --train-images 100 --out again')\nmemory_defense.load('again')",
        given="run()\nPath('run/manifest.json').write_text('{')\n",
    ),
    Case(
        "run_directory.py",
        "damaged or replaced; restore it, or train again into a new directory",
        "memory_defense.load('run')",
        "save_weights(mine.weights, kept, {'recipe': 'fashion-mnist/tiny'})\nmemory_defense.load('run')",
        given="""
        from memory_defense.tensorfiles import read_tensors, write_tensors
        from memory_defense.training.checkpoint import save_weights
        mine = RunDirectory(run())
        kept = memory_defense.load("run")
        kept.transfer_source = None
        tensors, header = read_tensors(mine.weights)
        write_tensors(mine.weights, {name: one + 0 if one.dtype != torch.float32 else 2 * one for name, one in
            tensors.items()}, header)
        """,
    ),
    Case(
        "run_directory.py",
        "already exists; give --force to replace it, or another name",
        "memdef('memdef export run --out mine.safetensors')",
        "memdef('memdef export run --out mine.safetensors «give (--force)»')",
        given="run()\nmemdef('memdef export run --out mine.safetensors')\n",
    ),
    Case(
        "training/fit.py",
        "was made with other training images; resume with the same ones, or delete it to start again",
        "trained(plain(), others)",
        """
        Path("copy.safetensors").write_bytes(state.read_bytes())
        trained(plain(), data)
        Path("«(state.safetensors) was made»").unlink()
        trained(plain(), others)
        """,
        given=FIT,
    ),
    Case(
        "training/fit.py",
        "with the same weights it gives other answers now; bring back the code that it was made with, or delete it",
        "trained(other(), data)",
        """
        trained(plain(), data)
        Path("«(state.safetensors) was made»").unlink()
        trained(other(), data)
        """,
        given=FIT,
    ),
    Case(
        "workflows/train.py",
        "was trained on other images; remove it, or choose another directory",
        "made('two', other)",
        """
        Path("«(\\S+) was trained on»").unlink()
        for path in Path("shared").iterdir():  # each of its classifiers in turn
            path.unlink()
        made("two", other)
        """,
        given="""
        from dataclasses import replace
        from memory_defense.data.images import load_dataset
        splits = load_dataset("fashion-mnist")
        splits = replace(splits, train=splits.train.first(100))
        other = replace(splits, spec=replace(splits.spec, sha256="b" * 64))

        def made(place, images):
            return train(RECIPES["fashion-mnist/tiny"], Path(place), images, resume=True, shared=Path("shared"))

        made("one", splits)
        """,
    ),
)
