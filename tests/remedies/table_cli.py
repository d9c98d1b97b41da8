"""Messages of the commands."""

from remedies.cases import Case
from remedies.table_doors import CODE

ROOMS = tuple(
    f"cli/{name}.py"
    for name in (
        "__init__",
        "arguments",
        "compare",
        "machine",
        "own_options",
        "predict",
        "queue",
        "report",
        "reproduce",
        "studio",
        "train",
    )
)

TINY = """
from dataclasses import replace
from memory_defense.data.spec import DATASETS
patch.setitem(DATASETS, "fashion-mnist", replace(DATASETS["fashion-mnist"], held_out_images=100))
"""
PHOTO = "Image.fromarray(np.arange(784, dtype=np.uint8).reshape(28, 28)).save('photo.png')"

OPENED = f"""
from memory_defense.studio import server
patch.setattr(server, "serve", lambda settings, *others, **more: None)
{CODE}
"""

CASES = (
    Case(
        "cli/__init__.py",
        "what was finished is kept, continue with the same command (train: with --resume)",
        "memdef('memdef train fashion-mnist/tiny --train-images 50 --out run', status=0)",
        """
        patch.setattr(fit._Run, "_score", usual)
        memdef("memdef train fashion-mnist/tiny --train-images 50 --out run «with (--resume)»")
        """,
        given="""
        from memory_defense.training import fit

        usual = fit._Run._score

        def pressed(*values):
            raise KeyboardInterrupt

        patch.setattr(fit._Run, "_score", pressed)
        """,
    ),
    Case(
        "cli/arguments.py",
        "is not a number; write it as …",
        "memdef('memdef evaluate run --epsilon 8/255px --attacks fgsm --images 2')",
        "memdef('memdef evaluate run --epsilon «write it as (8/255) or» --attacks fgsm --images 2')",
        given="run()",
    ),
    Case(
        "cli/machine.py",
        "unknown device …; use cpu, cuda or cuda:N",
        "memdef('memdef evaluate run --device gpu --attacks fgsm --images 2')",
        "memdef('memdef evaluate run --device «use (cpu)» --attacks fgsm --images 2')",
        given="run()",
    ),
    Case(
        "cli/machine.py",
        "there is no CUDA device here (or torch has no CUDA); use --device cpu",
        "memdef('memdef evaluate run --device cuda --attacks fgsm --images 2')",
        "memdef('memdef evaluate run «use (.*)» --attacks fgsm --images 2')",
        given="run(); patch.setattr(torch.cuda, 'is_available', lambda: False)",
    ),
    Case(
        "cli/predict.py",
        "there is no …; give image files, folders of them, or .npz files",
        "memdef('memdef predict run phot.png')",
        """
        memdef("memdef predict run photo.png")
        Path("photos").mkdir()
        shutil.copy("photo.png", "photos")
        memdef("memdef predict run photos")
        np.savez("photos.npz", images=np.asarray(Image.open("photo.png"))[None])
        memdef("memdef predict run photos.npz")
        """,
        given=f"run(); {PHOTO}",
    ),
    Case(
        "cli/predict.py",
        "give --data-dir (--data for images of your own), or run 'memdef predict' on a machine that has them and "
        "copy the run's manifest.json",
        "memdef('memdef predict run photo.png --offline')",
        """
        shutil.copytree("run", "machine/run")
        shutil.copy("photo.png", "machine")
        memdef(f"memdef predict machine/run photo.png --offline --data-dir {there}")
        shutil.copy("machine/run/manifest.json", "run/manifest.json")
        memdef("memdef predict run photo.png --offline")
        """,
        given=f"""
        import os
        from memory_defense.data import sources
        run(); {PHOTO}
        there = os.environ["MEMDEF_DATA"]
        patch.delenv("MEMDEF_DATA")
        patch.setenv("MEMDEF_CACHE", str(Path("cache").absolute()))
        patch.setattr(sources, "SYSTEM", {{}})
        """,
    ),
    Case(
        "cli/queue.py",
        "--data-dir and --offline: not with --tiny, whose images are made up",
        "memdef('memdef queue run fashion-mnist-strong --tiny --offline --minutes 0', status=75)",
        "memdef('memdef queue run fashion-mnist-strong --tiny --minutes 0', status=75)",
    ),
    Case(
        "cli/queue.py",
        "not finished: run the same command again",
        "said = memdef('memdef queue run fashion-mnist-strong --tiny --minutes 0', status=75)",
        "memdef('memdef queue run fashion-mnist-strong --tiny --minutes 9')",
    ),
    Case(
        "cli/report.py",
        "--markdown and --format …: give one of them",
        "memdef('memdef report run --markdown --format latex')",
        "memdef('memdef report run --markdown'); memdef('memdef report run --format latex')",
        given="run(evaluated=True)",
    ),
    Case(
        "cli/report.py",
        "--out is for a page; leave it out, and send what is printed to … with > …",
        "memdef('memdef report run --format latex --out tables.tex')",
        "printed = memdef('memdef report run --format latex'); Path('«with > (.+)$»').write_text(printed)",
        given="run(evaluated=True)",
    ),
    Case(
        "cli/report.py",
        "--hub-dataset: only with --format eval-results, which names a dataset",
        "memdef('memdef report run --hub-dataset me/images')",
        "memdef('memdef report run --hub-dataset me/images «(--format eval-results)»')",
        given="run(evaluated=True)",
    ),
    Case(
        "cli/report.py",
        "is of one record, and … are given; print each by itself",
        "memdef('memdef report run run --format cyclonedx')",
        "memdef('memdef report run --format cyclonedx')",
        given="run(evaluated=True)",
    ),
    Case(
        "cli/compare.py",
        "--out is for a page; give --format html with it, or send what is printed to … with > …",
        "memdef('memdef compare run run --out both.md')",
        """
        memdef("memdef compare run run --out both.html «(--format html)»")
        Path("«with > (.+)$»").write_text(memdef("memdef compare run run --format markdown"))
        """,
        given="run(evaluated=True)",
    ),
    Case(
        "cli/report.py",
        "has no record.json; make one with: memdef evaluate …",
        "memdef('memdef report run')",
        "memdef(\"«with: (.*)» --images 2\"); memdef('memdef report run')",
        given="run()",
    ),
    Case(
        "cli/reproduce.py",
        "has no rows to choose from; leave out --row",
        "memdef('memdef reproduce timing --scale tiny --row memae --out runs')",
        "memdef('memdef reproduce timing --scale tiny --out runs')",
        given=TINY,
    ),
    Case(
        "cli/reproduce.py",
        "has no rows to make at once; leave out --processes",
        "memdef('memdef reproduce timing --scale tiny --processes 2 --out runs')",
        "memdef('memdef reproduce timing --scale tiny --out runs')",
        given=TINY,
    ),
    Case(
        "cli/studio.py",
        "is not a directory; give one that holds runs, or make one with 'memdef demo'",
        "memdef('memdef studio elsewhere --port 0')",
        "memdef('memdef studio . --port 0'); memdef('memdef studio runs --port 0')",
        given="""
        from memory_defense.studio import server
        from memory_defense.workflows import demo
        run()
        patch.setattr(server, "serve", lambda settings, *others, **more: None)
        shutil.copytree("run", "runs/demo")
        """,
    ),
    Case(
        "cli/studio.py",
        "one classifier at a time, for its options are its own; start another studio with another --port",
        "memdef('memdef studio mine:Net mine:Net --data data --random-weights')",
        "memdef('memdef studio mine:Net --data data --random-weights «with another (--port)» 0')",
        given=OPENED,
    ),
    Case(
        "cli/studio.py",
        "only with a classifier; name one, such as package.module:build or hf:DIR, beside the folders",
        "memdef('memdef studio . --data data --random-weights')",
        "memdef('memdef studio . mine:Net --data data --random-weights')",
        given=OPENED,
    ),
    Case(
        "cli/studio.py",
        "which is not installed: pip install 'memory-defense[studio]'",
        "memdef('memdef studio .')",
        r"""
        from importlib.metadata import requires
        extra = "«memory-defense\[(\w+)\]»"
        brought = [one for one in requires("memory-defense") if extra in one.partition(";")[2]]
        assert any(one.startswith("«needs (\w+),»") for one in brought)
        sys.modules["fastapi"] = installed
        memdef("memdef studio . --port 0")
        """,
        given="""
        import sys
        import fastapi as installed
        from memory_defense.studio import server
        run()
        patch.setattr(server, "serve", lambda settings, *others, **more: None)
        sys.modules["fastapi"] = None
        """,
    ),
    Case(
        "cli/train.py",
        "--size: only together with --data; a recipe's own images keep their size",
        "memdef('memdef train fashion-mnist/tiny --size 28 --out run')",
        """
        memdef("memdef train fashion-mnist/tiny --train-images 50 --out run")
        memdef("memdef train fashion-mnist/tiny --size 28 --data mine --train-images 16 --out other")
        """,
        given="folder('mine', count=12, size=20)",
    ),
)
