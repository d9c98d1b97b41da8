"""Messages about folders of images, their places and limits."""

from remedies.cases import Case
from remedies.own_images import of_arrays, of_folder

ROOMS = tuple(
    f"data/{name}.py"
    for name in (
        "class_map",
        "class_order",
        "decoded",
        "folder_pixels",
        "folders",
        "geometry",
        "leftovers",
        "limits",
        "own",
        "places",
        "twins",
    )
)

CASES = (
    of_folder(
        "class_map",
        "does not exist; write a class a line, or FOLDER and a number a line",
        "read_listing(Path('classes.txt'))",
        "Path('classes.txt').write_text('class0 3\\n'); assert read_listing(Path('classes.txt')) == ('class0 3',)",
    ),
    of_folder(
        "class_map",
        "add a line for it",
        "listed_numbers(('class0', 'class1'), ('class0 3',), Path('classes.txt'))",
        "assert listed_numbers(('class0', 'class1'), ('class0 3', 'class1 5'), Path('x')).outputs == (3, 5)",
    ),
    of_folder(
        "geometry",
        "which are two ways to resize; give one",
        "load_images('mine', size=8, geometry='resize=8')",
        "load_images('mine', size=8); load_images('mine', geometry='resize=8')",
    ),
    of_folder(
        "geometry",
        "write pixels, 224 or 224x320 (height x width)",
        "load_images('mine', geometry='resize=big')",
        "for size in ('«pixels, (\\d+)»', '«or (\\S+)»'): load_images('mine', geometry=f'resize={size}')",
    ),
    of_folder(
        "geometry",
        "are to be cut out; resize to at least the crop",
        "load_images('mine', geometry='resize=8,crop=16')",
        "load_images('mine', geometry='resize=16,crop=16')",
    ),
    of_folder(
        "geometry",
        "images are resized and cropped to … to … pixels a side, not …; write …, say",
        "load_images('mine', geometry='resize=2000')",
        "load_images('mine', geometry='«write (.*), say»')",
    ),
    of_folder(
        "geometry",
        "does not say how images are resized, at …; write …, say",
        "load_images('mine', geometry='larger')",
        "load_images('mine', geometry='«write (.*), say»')",
    ),
    Case(
        "data/places.py",
        "is trained on as it is; leave geometry out",
        "load_splits('fashion-mnist', geometry='resize=32')",
        "load_splits('fashion-mnist')",
        given="from memory_defense.data.own import load_splits",
    ),
    of_folder(
        "class_order",
        "name class … twice; name each once",
        "load_images('mine', classes=['class0', 'class1', 'class0'])",
        "load_images('mine', classes=['class0', 'class1'])",
    ),
    of_folder(
        "class_order",
        "names no class, or one that cannot be shown; write one name a line",
        "Path('mine/class_order.txt').write_text(''); load_images('mine')",
        "Path('mine/class_order.txt').write_text('class1\\nclass0\\n'); load_images('mine')",
    ),
    of_folder(
        "class_order",
        "make an empty folder for each",
        "(said,) = (note for note in load_images('mine').notes if 'empty folder' in note)",
        """
        for number in range(3):
            Path(f"mine/test/{number}").mkdir(exist_ok=True)
        found = load_images("mine")
        assert found.classes == ("0", "1", "2", "3") and sorted(set(found.images.labels.tolist())) == [1, 3]
        """,
        given="""
shutil.rmtree("mine/train")
Path("mine/test/class0").rename("mine/test/1")
Path("mine/test/class1").rename("mine/test/3")
""",
    ),
    of_folder(
        "class_order",
        "rename or remove the folder, so that only these are there",
        "load_images('mine', classes=['class0', 'bird'])",
        """
        for split in ("train", "test"):
            Path(f"mine/{split}/class1").rename(f"mine/{split}/bird")
        load_images("mine", classes=["class0", "bird"])
        """,
    ),
    of_folder(
        "class_order",
        "is not a list of class names in UTF-8 (…); write one name a line",
        "Path('mine/class_order.txt').write_bytes(b'\\xff\\xfeclass1'); load_images('mine')",
        "Path('mine/class_order.txt').write_text('class1\\nclass0\\n'); load_images('mine')",
    ),
    of_folder(
        "class_order",
        "are one number; put their images into one folder, or list all class folders in …",
        "load_images('mine')",
        """
        Path("«folders in (.*)$»").write_text("1\\n01\\n")
        assert load_images("mine").classes == ("1", "01")
        Path("mine/class_order.txt").unlink()
        for split in ("train", "test"):
            for file in Path(f"mine/{split}/01").iterdir():
                file.rename(f"mine/{split}/1/more-{file.name}")
            Path(f"mine/{split}/01").rmdir()
            shutil.copytree(f"mine/{split}/1", f"mine/{split}/0")
        assert load_images("mine").classes == ("0", "1")
        """,
        given="""
for split in ("train", "test"):
    Path(f"mine/{split}/class0").rename(f"mine/{split}/1")
    Path(f"mine/{split}/class1").rename(f"mine/{split}/01")
""",
    ),
    of_folder(
        "folders",
        "…; put images at …",
        "Path('empty').mkdir(); load_images('empty')",
        """
        place = Path("«images at (.*)»")
        for name in ("cat", "dog"):
            image = Path(str(place).replace("CLASS", name))
            image.parent.mkdir(parents=True)
            shutil.copy("mine/test/class0/0.png", image)
        load_images("empty")
        """,
    ),
    of_folder(
        "folders",
        "is a file: give a folder, or unpack it",
        "Path('packed').mkdir(); Path('packed/test').write_bytes(b'PK'); load_images('packed')",
        "Path('packed/test').unlink(); shutil.copytree('mine/test', 'packed/test'); load_images('packed')",
    ),
    of_folder(
        "folders",
        "…; they are in …: give that",
        "load_images('outer')",
        "load_images('«they are in (.*): give»')",
        given="Path('outer').mkdir(); Path('mine').rename('outer/mine')",
    ),
    of_folder(
        "folders",
        "…; rename … to …",
        "load_images('mine')",
        "Path('mine', «rename (.*) to»).rename(Path('mine', «to ('.*')»)); load_images('mine')",
        given="shutil.rmtree('mine/train'); Path('mine/test').rename('mine/val')",
    ),
    of_folder(
        "folders",
        "…: … …; convert, move or remove them: …/CLASS/FILE is read, and the folder of a file is its class",
        "load_images('mine')",
        """
        stray = Path("mine/test/0.png")
        shutil.move(stray, "mine/test/class0/more.png")
        load_images("mine")
        shutil.copy("mine/test/class0/more.png", stray)
        stray.unlink()
        load_images("mine")
        """,
        given="shutil.copy('mine/test/class0/0.png', 'mine/test/0.png')",
    ),
    of_folder(
        "folders",
        "cannot be shown; rename this class folder",
        "load_images('mine')",
        """
        for split in ("train", "test"):
            Path(f"mine/{split}/cat\\x07").rename(f"mine/{split}/cat")
        load_images("mine")
        """,
        given="""
for split in ("train", "test"):
    Path(f"mine/{split}/class0").rename(f"mine/{split}/cat\\x07")
""",
    ),
    of_folder(
        "folders",
        "is a link out of …, to …; copy what it leads to instead",
        "load_images('mine')",
        """
        link = Path("«(.*) is a link»")
        link.unlink()
        shutil.copy("«, to (.*); copy»", link)
        load_images("mine")
        """,
        given="""
Path("mine/test/class0/0.png").rename("elsewhere.png")
Path("mine/test/class0/0.png").symlink_to(Path("elsewhere.png").absolute())
""",
    ),
    of_folder(
        "folder_pixels",
        "vanished while … was read; read it again",
        "reader.read('test')",
        "assert len(load_images('mine').images) == 3",
        given="""
from memory_defense.data.folders import ImageFolder
from memory_defense.data.limits import Limits
reader = ImageFolder(Path("mine"), Limits())
reader.labels("test")
Path("mine/test/class0/0.png").unlink()
""",
    ),
    of_folder(
        "folder_pixels",
        "pixels, but … is … x …; …",
        "load_images('mine')",
        r"load_images('mine', «with (size=\d+)»)",
        given="Image.new('L', (12, 12)).save('mine/test/class1/1.png')",
    ),
    of_arrays(
        "own",
        "they must be alike, so convert one of them",
        "np.savez('mine.npz', **train, test_images=many / 255, test_labels=answers); load_splits('mine.npz')",
        "np.savez('mine.npz', **train, test_images=many, test_labels=answers); load_splits('mine.npz')",
        given="train = {'train_images': many, 'train_labels': answers}",
    ),
    of_arrays(
        "own",
        "classes are for the class folders of a folder, but … has labels that are numbers; leave it out",
        "load_images('mine.npz', classes=['cat', 'dog'])",
        "load_images('mine.npz')",
        given="save(images=many, labels=answers)",
    ),
    of_folder(
        "own",
        "images, only …; add them, or ask for those",
        "load_images('mine')",
        """
        load_images("mine", split="«only (.*); add»")
        shutil.copytree("mine/train", "mine/test")
        load_images("mine")
        """,
        given="shutil.rmtree('mine/test')",
    ),
    of_folder(
        "own",
        "which is not a square; take H and W from images.images.shape",
        "load_images('mine').size",
        "split = load_images('mine'); assert split.«from (images.images.shape)»[2:] == (8, 12)",
        given="""
for file in Path("mine").rglob("*.png"):
    Image.new("L", (12, 8)).save(file)
""",
    ),
    of_folder(
        "own",
        "training images, but it needs at least 2; add some",
        "load_splits('mine')",
        "shutil.copy('mine/train/class0/0.png', 'mine/train/«class (.*) has»/more.png'); load_splits('mine')",
        given="Path('mine/train/class1/1.png').unlink()",
    ),
    of_folder(
        "own",
        "cannot be read (…); make it readable with chmod u+r, or copy it again",
        "load_images('mine')",
        """
        subprocess.run(["chmod", "«chmod (.*),»", "«(.*) cannot»"], check=True)
        load_images("mine")
        """,
        given="Path('mine/test/class0/0.png').chmod(0)",
    ),
    of_folder(
        "own",
        "no class has two in train; add some",
        "load_images('mine', split='held-out')",
        """
        shutil.copy("mine/train/class0/0.png", "mine/train/class0/more.png")
        load_images("mine", split="held-out")
        """,
        given="""
for label in (0, 1):
    Path(f"mine/train/class{label}/1.png").unlink()
""",
    ),
    Case(
        "data/places.py",
        "but it must be from … to … pixels a side",
        "check_size(2000)",
        r"check_size(«to (\d+) pixels»)",
    ),
    Case(
        "data/places.py",
        "is trained on as it is; leave size out",
        "load_splits('fashion-mnist', size=32)",
        "load_splits('fashion-mnist')",
        given="from memory_defense.data.own import load_splits",
    ),
    Case(
        "data/places.py",
        "which is not a directory; name one that exists, or none",
        "memdef('memdef data fashion-mnist --data-dir nowhere')",
        """
        import os
        memdef(f"memdef data fashion-mnist --data-dir {os.environ['MEMDEF_DATA']}")
        memdef("memdef data fashion-mnist")
        """,
    ),
    of_folder(
        "places",
        "there is no folder or file ……",
        "load_images('min')",
        "load_images('mine')",
    ),
    of_folder(
        "places",
        "but … is a path of its own; leave it out",
        "load_images('mine', data_dir='mine')",
        "load_images('mine')",
    ),
    of_arrays(
        "places",
        "write arrays with numpy.savez(FILE, images=..., labels=...), or put image files into FOLDER/test/CLASS/",
        "Path('mine.csv').write_text('1,2'); load_images('mine.csv')",
        r"""
        np.«numpy\.(savez)»("mine.npz", images=many, labels=answers)
        load_images("mine.npz")
        for number, answer in enumerate(answers):
            place = Path("«into (.*)$»".replace("FOLDER", "mine").replace("CLASS", str(answer)))
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(many[number]).save(place / f"{number}.png")
        load_images("mine")
        """,
    ),
    of_arrays(
        "limits",
        "raise Limits.{}",
        "load_images('mine.npz', limits=Limits(images=3))",
        r"load_images('mine.npz', limits=Limits(«Limits\.(\w+)»=4))",
        given="from memory_defense.data.limits import Limits; save(images=many, labels=answers)",
    ),
    of_folder(
        "limits",
        "raise Limits.{} in a program, see docs/data.md",
        "memdef('memdef evaluate classifier:build --weights w.safetensors --data mine --epsilon 0.1')",
        r"load_images('mine', limits=Limits(«raise Limits\.(\w+) in»=1 << 20))",
        given="""
from memory_defense.data.limits import Limits
from safetensors.torch import save_file
code("classifier.py", "def build(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 2))")
save_file(nn.Sequential(nn.Flatten(), nn.Linear(64, 2)).state_dict(), "w.safetensors")
for split in ("train", "test"):
    for number in range(1001):
        Path(f"mine/{split}/{number:04}").mkdir()
""",
    ),
    of_folder(
        "limits",
        "resize them all to the pixels that the model takes…",
        "load_splits('mine')",
        r"load_splits('mine', «with (size=\d+)»)",
        given="""
for file in Path("mine").rglob("*.png"):
    Image.new("L", (12, 8)).save(file)
""",
    ),
    of_folder(
        "limits",
        "but images must be square; …",
        "memdef('memdef train fashion-mnist/tiny --data mine --out run')",
        r"load_splits('mine', size=«--size (\d+)»)",
        given="""
for file in Path("mine").rglob("*.png"):
    Image.new("L", (12, 8)).save(file)
""",
    ),
    of_folder(
        "limits",
        "but images must be at most … pixels a side; …",
        "load_splits('mine')",
        r"load_splits('mine', «with (size=\d+)»)",
        given="""
for file in Path("mine").rglob("*.png"):
    Image.new("L", (1100, 1100)).save(file)
""",
    ),
    of_folder(
        "limits",
        "but each side must have at least …; remove it, or enlarge it to what the model takes",
        "load_images('mine')",
        r"""
        small = Path("«(.*) is 3 x 3»")
        Image.open(small).resize((8, 8)).save(small)
        load_images("mine")
        small.unlink()
        load_images("mine")
        """,
        given="Image.new('L', (3, 3)).save('mine/test/class0/0.png')",
    ),
    of_folder(
        "limits",
        "holds no images; put at least one there",
        "load_images('mine')",
        "shutil.copy('mine/train/class0/0.png', '«(.*) holds no»/class0'); load_images('mine')",
        given="""
for file in Path("mine/test").rglob("*.png"):
    file.unlink()
""",
    ),
    of_arrays(
        "limits",
        "images, at most … are read; use fewer……",
        "load_images('mine.npz', limits=Limits(images=3))",
        r"""
        load_images("mine.npz", limits=Limits(«raise Limits\.(\w+)»=4))
        load_images(folder("fewer", count=1), limits=Limits(images=3), «fewer \((images=\d)\)»)
        """,
        given="from memory_defense.data.limits import Limits; save(images=many, labels=answers)",
    ),
    of_arrays(
        "limits",
        "bytes, at most … are read; use fewer… or smaller images…",
        "load_images('mine.npz', limits=Limits(memory=150))",
        r"""
        load_images("mine.npz", limits=Limits(memory=150), «fewer \((images=\d), say\)»)
        load_images("mine.npz", limits=Limits(«raise Limits\.(\w+)»=256))
        save(images=many[:, ::2, ::2], labels=answers)
        load_images("mine.npz", limits=Limits(memory=150))
        """,
        given="from memory_defense.data.limits import Limits; save(images=many, labels=answers)",
    ),
    of_folder(
        "limits",
        "but a classifier needs at least 2; add the other classes, without images where there are none",
        "load_images('mine')",
        "Path('mine/train/class1').mkdir(); assert load_images('mine').classes == ('class0', 'class1')",
        given="""
for split in ("train", "test"):
    shutil.rmtree(f"mine/{split}/class1")
""",
    ),
    of_arrays(
        "limits",
        "classes, at most … are read; are the labels class numbers? …",
        "save(images=many, labels=answers * 2000)",
        """
        from memory_defense.data.limits import Limits
        load_images("mine.npz", limits=Limits(classes=2001))
        save(images=many, labels=answers)
        """,
    ),
)
