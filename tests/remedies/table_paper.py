"""Messages of the reproduction."""

from remedies.cases import Case

ROOMS = ("paper",)

HALVES = """
weights = Path("weights")
write_half(net, weights)
shutil.copytree(weights, "kept")
"""
RESTORED = """
shutil.copy(Path("kept", Path("{file}").name), "{file}")
restore_half(weights, net)
"""
SAMPLE = """
from memory_defense.paper.trained_rows import Sample
seen = torch.rand(6, 1, 28, 28)
defense = load(run())
answers = defense(seen).argmax(1)

def evaluated(rows):
    return evaluate(defense, seen[rows], answers[rows], epsilon=EPSILON, attacks="fgsm", out="record.json")
"""
RECORD = """
from memory_defense.paper.printed.published import TABLE_5
run()

def table(record):
    return reproduced(TABLE_5, [("memory-defense", record, "record.json")], scale="tiny")

def evaluated(options):
    for one in Path(".").glob("made.*"):
        one.unlink()
    memdef(f"memdef evaluate run --images 2 --out made.json {options}")
    return Record.read(Path("made.json"))
"""
POOL = """
from paper.pool_work import Work, data
home = Path("pool").absolute()
home.mkdir()
"""

PARTS = """
from memory_defense.paper import queue_parts
Path("entry").mkdir()
Path("entry", "record.json").write_bytes(bytes(20_000))
"""

SHIPPED_ROW = """
from paper.rows import splits
recipe, own = RECIPES["fashion-mnist/tiny/resnet-benign"], at_scale("tiny", splits("fashion-mnist"))
taken = trained(recipe, Path("out"), own, seed=0)
taken.write({**taken.read(), "shipped": "fashion-mnist/benign"})
"""

CASES = (
    Case(
        "paper/tables.py",
        "was taken from the package, at least in part, not trained; give --train another directory (--out)",
        "trained(recipe, Path('out'), own, seed=0, anew=True)",
        "trained(recipe, Path('«another (directory)»'), own, seed=0, anew=True)",
        given=SHIPPED_ROW,
    ),
    Case(
        "paper/queue.py",
        "holds no weights, but they are what this entry attacks",
        "memdef('memdef queue run cifar10-strong-attacks --tiny')",
        "memdef('«'(memdef queue run \\S+)'» --tiny'); memdef('memdef queue run cifar10-strong-attacks --tiny')",
    ),
    Case(
        "paper/queue_parts.py",
        "bytes come back; keep fewer weights in this entry",
        "queue_parts.write_parts(Path('entry'), Path('flat'), 1000)",
        "queue_parts.write_parts(Path('entry'), Path('flat'))",
        given=PARTS,
    ),
    Case(
        "paper/queue_parts.py",
        "has no parts, NAME-1-of-n.part; give the directory in which they came back",
        "queue_parts.read_parts(Path('entry'), Path('weights'))",
        "queue_parts.read_parts(Path('flat'), Path('weights'))",
        given=PARTS + "queue_parts.write_parts(Path('entry'), Path('flat'), 16_384)",
    ),
    Case(
        "paper/queue_parts.py",
        "is missing; bring it back as well",
        "Path('flat/entry-2-of-2.part').rename('gone'); queue_parts.read_parts(Path('flat'), Path('weights'))",
        "Path('gone').rename('«(flat.*?part) is missing»'); queue_parts.read_parts(Path('flat'), Path('weights'))",
        given=PARTS + "queue_parts.write_parts(Path('entry'), Path('flat'), 16_384)",
    ),
    Case(
        "paper/queue_parts.py",
        "are not an archive (…); bring them back again",
        """
        Path("flat/entry-1-of-2.part").write_bytes(bytes(b"no archive" * 99))
        queue_parts.read_parts(Path("flat"), Path("weights"))
        """,
        """
        queue_parts.write_parts(Path("entry"), Path("flat"), 16_384)
        queue_parts.read_parts(Path("flat"), Path("weights"))
        """,
        given=PARTS + "queue_parts.write_parts(Path('entry'), Path('flat'), 16_384)",
    ),
    Case(
        "paper/anatomy.py",
        "the radius is …, but it must be at least 0",
        "NormalisedBox(-0.1, 0.13, 0.31)",
        r"NormalisedBox(«at least (\d)», 0.13, 0.31)",
    ),
    Case(
        "paper/anatomy.py",
        "must be a part of [0, 1]",
        "NormalisedBox(0.1, 0.5, 0.7)",
        "NormalisedBox(0.1, 0.5, 0.3)",
    ),
    Case(
        "paper/anatomy.py",
        "is about other images; delete it, and the same command evaluates the row again",
        "bench.worst(STEPS[-1], evaluated(slice(0, 4)), Path('record.json'))",
        """
        Path("«(.*) is about»").unlink()
        bench.worst(STEPS[-1], evaluated(slice(0, 6)), Path("record.json"))
        """,
        given=f"""{SAMPLE}
bench = Bench(defense=defense, sample=Sample(images=seen, labels=answers, ids=torch.arange(6)), seed=0)
""",
    ),
    Case(
        "paper/figure3.py",
        "do not fit; give (N, D), (N, D) and (N,)",
        "neighbours_answer(torch.rand(6, 2, 2), torch.arange(6), k=1)",
        "neighbours_answer(torch.rand(6, 4), torch.arange(6), k=1, queries=torch.rand(6, 4))",
    ),
    Case(
        "paper/figure3.py",
        "vectors it lies between 1 and …",
        "neighbours_answer(torch.rand(6, 4), torch.arange(6), k=6)",
        r"neighbours_answer(torch.rand(6, 4), torch.arange(6), k=«and (\d)»)",
    ),
    Case(
        "paper/figure3.py",
        "values have no percentile …; give some, and a share in (0, 1]",
        "percentile(torch.tensor([]), 99)",
        "percentile(torch.rand(100), 0.99)",
    ),
    Case(
        "paper/figure3.py",
        "Figure 3 needs scikit-learn, which is not installed: pip install 'memory-defense[figures]'",
        "_tsne()",
        r"""
        from importlib.metadata import requires
        extra = "«memory-defense\[(\w+)\]»"
        brought = [one for one in requires("memory-defense") if extra in one.partition(";")[2]]
        assert any(one.startswith("«needs (scikit-learn),»>") for one in brought)
        sys.modules["sklearn.manifold"] = installed
        _tsne()
        """,
        given="""
        import sys
        import sklearn.manifold as installed
        sys.modules["sklearn.manifold"] = None
        """,
    ),
    Case(
        "paper/half_weights.py",
        "holds next to nothing; allow at least …",
        "write_half(net, Path('weights'), limit=100)",
        r"write_half(net, Path('weights'), limit=«at least (\d+)»); restore_half(Path('weights'), net)",
    ),
    Case(
        "paper/half_weights.py",
        "is missing, one of … files of these weights; restore it",
        "restore_half(weights, net)",
        RESTORED.replace("{file}", "«(.*) is missing»"),
        given=f"{HALVES}\nnext(weights.glob('*.safetensors')).unlink()",
    ),
    Case(
        "paper/half_weights.py",
        "is not what was written (another SHA-256 than … says); restore it",
        "restore_half(weights, net)",
        RESTORED.replace("{file}", "«(.*) is not»"),
        given=f"{HALVES}\nwrite_tensors(next(weights.glob('*.safetensors')), net.state_dict())",
    ),
    Case(
        "paper/half_weights.py",
        "does not fit the files beside it (…); restore it",
        "restore_half(weights, net)",
        RESTORED.replace("{file}", "«(.*) does not»"),
        given=f"""{HALVES}
manifest = weights / "weights.json"
changed = json.loads(manifest.read_text().replace("1.bias", "2.bias"))
del changed["checksum"]  # as in a run of an earlier version
manifest.write_text(json.dumps(changed))
""",
    ),
    Case(
        "paper/half_weights.py",
        "give a directory that holds weights in half precision",
        "restore_half(Path('.'), net)",
        "restore_half(weights, net)",
        given=HALVES,
    ),
    Case(
        "paper/half_weights.py",
        "is damaged (…: …); restore it",
        "restore_half(weights, net)",
        RESTORED.replace("{file}", "«(.*) is damaged»"),
        given=f"{HALVES}\n(weights / 'weights.json').write_text('{{}}')",
    ),
    Case(
        "paper/printed/anatomy.py",
        "the document needs the lines … and …, once each and in this order",
        "with_anatomy('# Anatomy', result)",
        """
        marks = [«lines ('.*?') and», «and ('.*?'), once»]
        assert "whole" in with_anatomy("\\n".join(["# The whole", *marks]), result)
        """,
        given="""
        from remedies.prelude import RESULT
        result = Anatomy.read(RESULT.parents[1] / "anatomy/anatomy.json")
        """,
    ),
    Case(
        "paper/printed/measured.py",
        "make it again with 'memdef reproduce …'",
        "Timing.read(place)",
        "memdef(\"«'(memdef .*)'» --scale tiny --out runs\"); Timing.read(place)",
        given="""
        from dataclasses import replace
        from memory_defense.data.spec import DATASETS
        from memory_defense.paper.printed.timing import Timing
        DATASETS["fashion-mnist"] = replace(DATASETS["fashion-mnist"], held_out_images=100)
        place = Path("runs/results/tiny/timing/timing.json")
        place.parent.mkdir(parents=True)
        place.write_text("{}")
        """,
    ),
    Case(
        "paper/printed/reproduced.py",
        "there is no row … in …, and it is none of …",
        "reproduced(TABLE_5, [('mine', record, 'record.json')], scale='tiny')",
        r"reproduced(TABLE_5, [('«none of .*(resnet-online)»', record, 'record.json')], scale='tiny')",
        given=f"{RECORD}\nrecord = evaluated('--attacks fgsm --epsilon 25/255')",
    ),
    Case(
        "paper/printed/reproduced.py",
        "with the knowledge …; evaluate it again with the plan of this table",
        "table(evaluated('--attacks pgd --epsilon 25/255'))",
        "table(evaluated('--attacks fgsm --epsilon 25/255'))",
        given=RECORD,
    ),
    Case(
        "paper/printed/reproduced.py",
        "has no worst case for …; evaluate it again with the plan of this table",
        "table(record.model_copy(update={'worst_case': ()}))",
        "table(evaluated('--attacks fgsm --epsilon 25/255'))",
        given=f"{RECORD}\nrecord = evaluated('--attacks fgsm --epsilon 25/255')",
    ),
    Case(
        "paper/row_pool.py",
        "make nothing; give 1 or more",
        "RowPool(processes=0)",
        r"RowPool(processes=«give (\d)»)",
    ),
    Case(
        "paper/row_pool.py",
        "its process ended with status …; give the same command again, which resumes it",
        "pool.make([Work('one', 'killed', home)], data)",
        "pool.make([Work('one', 'once more', home)], data); assert (home / 'one').exists()",
        given=f"{POOL}\npool = RowPool(processes=1)",
    ),
)
