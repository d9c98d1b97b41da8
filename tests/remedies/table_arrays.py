"""Messages about files of arrays, and about what is made of images."""

from remedies.cases import Case
from remedies.own_images import of_arrays

ROOMS = tuple(
    f"data/{name}.py" for name in ("array_files", "array_pixels", "array_shapes", "augmentation", "images", "npz")
)

CASES = (
    of_arrays(
        "array_files",
        "holds bare images or labels and named splits; call the bare ones test_...",
        "save(images=many, labels=answers, train_images=many, train_labels=answers)",
        """
        call = "«bare ones (test_)»"
        save(**{f"{call}images": many, f"{call}labels": answers}, train_images=many, train_labels=answers)
        """,
    ),
    of_arrays(
        "array_files",
        "holds no images; save arrays named images and labels",
        "save()",
        r"save(«named (\w+)»=many, «and (\w+)»=answers)",
    ),
    of_arrays(
        "array_files",
        "expected strings (K,); save numpy.array([...], dtype=str)",
        "save(images=many, labels=answers, classes=np.array([7, 8]))",
        "save(images=many, labels=answers, classes=np.array(['cat', 'dog'], «, (dtype=str)»))",
    ),
    of_arrays(
        "array_files",
        "is not a JSON list of strings such as",
        "saved('cat, dog')",
        "saved('''«such as (.*)»''')",
        given="""
import safetensors.torch

def saved(classes):
    arrays = {"images": torch.from_numpy(many), "labels": torch.from_numpy(answers)}
    safetensors.torch.save_file(arrays, "mine.safetensors", {"classes": classes})
    return load_images("mine.safetensors")
""",
    ),
    of_arrays(
        "array_files",
        "holds a name twice, an empty one or one that cannot be shown; rename them",
        "save(images=many, labels=answers, classes=np.array(['cat', 'cat']))",
        "save(images=many, labels=answers, classes=np.array(['cat', 'dog']))",
    ),
    of_arrays(
        "array_files",
        "subtract 1 if they count from 1, or name every class in '…'",
        "save(images=many, labels=answers + 1)",
        r"""
        save(images=many, labels=answers + 1 - «subtract (\d)»)
        save(images=many, labels=answers + 1, «class in '(\w+)'»=np.array(["none", "cat", "dog"]))
        """,
    ),
    of_arrays(
        "array_pixels",
        "save it as uint8 if it counts from 0 to 255, else divide it by its largest level and save it as float32",
        "save(images=many.astype(np.int64), labels=answers)",
        r"""
        save(images=many.astype(np.«save it as (\w+) if»), labels=answers)
        save(images=(many / many.max()).astype(np.«save it as (\w+)$»), labels=answers)
        """,
    ),
    of_arrays(
        "array_files",
        "images and labels go together, so add them",
        "save(images=many)",
        r"save(images=many, «lacks (\w+)»=answers)",
    ),
    of_arrays(
        "array_files",
        "the first as …, the second as the labels",
        "save(images=many, labels=words)",
        r"""
        numpy, labels = np, words
        first, second = «parts of (numpy.unique.*?\)):»
        save(images=many, «first as (\w+)»=first, labels=second)
        """,
        given="words = np.array(['cat', 'dog', 'cat', 'dog'])",
    ),
    of_arrays(
        "array_pixels",
        "which is black; save pixels in [0, 1] as float32, or grey levels from 0 to 255",
        "save(images=many // 128, labels=answers)",
        r"""
        save(images=(many // 128).astype(np.«as (\w+), or»), labels=answers)
        save(images=many // 128 * «to (\d+)», labels=answers)
        """,
    ),
    of_arrays(
        "array_files",
        "expected uint8, whole numbers or float; convert it with astype",
        "save(images=many.astype('datetime64[s]'), labels=answers)",
        r"save(images=many.astype('datetime64[s]').«with (\w+)»(np.uint8), labels=answers)",
    ),
    of_arrays(
        "array_shapes",
        "use images.transpose(3, 2, 0, 1)",
        "save(images=images, labels=np.arange(5) % 2)",
        r"save(images=«use (images.*?\))», labels=np.arange(5) % 2)",
        given="images = np.random.default_rng(0).integers(0, 256, (8, 8, 3, 5), dtype=np.uint8)",
    ),
    of_arrays(
        "array_shapes",
        "; leave out the transparency, the last channel",
        "save(images=images, labels=answers)",
        "save(images=images[..., :3], labels=answers)",
        given="images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 4), dtype=np.uint8)",
    ),
    of_arrays(
        "array_shapes",
        "has shape …, expected (N, H, W), (N, C, H, W) or (N, H, W, C) with C = 1 or 3…",
        "save(images=many.reshape(4, 64), labels=answers)",
        "save(images=many.reshape(4, 8, 8), labels=answers)",
    ),
    of_arrays(
        "array_shapes",
        "several for an image, expected (B,); choose one class for each image",
        "save(images=many, labels=np.array([[0, 2], [1, 0], [0, 1], [1, 1]]))",
        "save(images=many, labels=np.array([[0, 2], [1, 0], [0, 1], [1, 1]])[:, 0])",
    ),
    of_arrays(
        "array_shapes",
        "one-hot? expected (B,); use labels.argmax(1)",
        "labels = np.eye(2)[answers]; save(images=many, labels=labels)",
        "save(images=many, labels=«use (.*)»)",
    ),
    of_arrays(
        "array_shapes",
        "save class numbers",
        "save(images=many, labels=answers + 0.5)",
        "save(images=many, labels=answers)",
    ),
    of_arrays(
        "array_shapes",
        "use …",
        "labels = answers.astype(float); save(images=many, labels=labels)",
        "save(images=many, labels=«use (.*)»)",
        within="…; …",
    ),
    of_arrays(
        "array_shapes",
        "rename or remove what is not one of them",
        "save(images=many, labels=answers, names=answers)",
        "save(images=many, labels=answers); save(images=many, labels=answers, classes=np.array(['cat', 'dog']))",
    ),
    of_arrays(
        "array_shapes",
        "which mean the same; remove one of them",
        "save(images=many, data=many, labels=answers)",
        "save(images=many, labels=answers)",
    ),
    of_arrays(
        "npz",
        "is an array of records; save plain numbers",
        "records(); load_images('mine.npz')",
        "save(images=many, labels=answers)",
        given="""
import io, zipfile

def records():
    with zipfile.ZipFile("mine.npz", "w") as archive:
        for name, values in (("images", many), ("labels", answers)):
            stream = io.BytesIO()
            np.lib.format.write_array(stream, values, version=(3, 0))
            archive.writestr(f"{name}.npy", stream.getvalue())
""",
    ),
    of_arrays(
        "npz",
        "save an array of numbers, or of strings with dtype=str",
        "save(images=many, labels=answers, classes=np.array(['cat', 'dog'], dtype=object))",
        "save(images=many, labels=answers, classes=np.array(['cat', 'dog'], «with (dtype=str)»))",
    ),
    of_arrays(
        "npz",
        "holds more than … arrays, or one name twice; write it again",
        "twice(); load_images('mine.npz')",
        "save(images=many, labels=answers)",
        given="""
import warnings, zipfile

def twice():
    np.savez("mine.npz", images=many, labels=answers)
    with zipfile.ZipFile("mine.npz", "a") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        archive.writestr("labels.npy", archive.read("labels.npy"))
""",
    ),
    of_arrays(
        "npz",
        "which is not an array; write it with numpy.savez_compressed",
        "noted(); load_images('mine.npz')",
        r"np.«with numpy\.(\w+)»('mine.npz', images=many, labels=answers); load_images('mine.npz')",
        given="""
import zipfile

def noted():
    np.savez("mine.npz", images=many, labels=answers)
    with zipfile.ZipFile("mine.npz", "a") as archive:
        archive.writestr("readme.txt", "mine")
""",
    ),
    of_arrays(
        "npz",
        "announces … … in … bytes; …",
        "short(); load_images('mine.npz')",
        "Path('mine.npz').unlink(); save(images=many, labels=answers)",
        given="""
import io, zipfile

def short():
    with zipfile.ZipFile("mine.npz", "w") as archive:
        for name, values in (("images", many), ("labels", answers)):
            stream = io.BytesIO()
            np.save(stream, values)
            archive.writestr(f"{name}.npy", stream.getvalue()[:-1])
""",
    ),
    Case(
        "data/augmentation.py",
        "crop_padding is …, but it must be at least 0 pixels",
        "Augmentation(crop_padding=-1)",
        r"Augmentation(crop_padding=«at least (\d)»)",
    ),
    Case(
        "data/augmentation.py",
        "erase_probability is …, but it must be in [0, 1]",
        "Augmentation(erase_probability=50)",
        "Augmentation(erase_probability=0.5)",
    ),
    Case(
        "data/augmentation.py",
        "but it must be the smallest and largest share, both in (0, 1]",
        "Augmentation(erase_area=(0.4, 0.02))",
        "Augmentation(erase_area=(0.02, 0.4))",
    ),
    Case(
        "data/augmentation.py",
        "but the smallest height over width must be in (0, 1]; the largest is one over it",
        "Augmentation(erase_aspect=3)",
        "Augmentation(erase_aspect=1 / 3)",
    ),
    Case(
        "data/augmentation.py",
        "but it must be finite and at least 0",
        "Augmentation(noise_std=-0.1)",
        r"Augmentation(noise_std=«at least (\d)»)",
    ),
    Case(
        "data/augmentation.py",
        "but it must be smaller than the images",
        "Augmentation(crop_padding=4)(images, draws)",
        r"Augmentation(crop_padding=«images, (\d)» - 1)(images, draws)",
        given="from memory_defense.randomness import ImageDraws; draws = ImageDraws.of(0, 'crop', 8)",
    ),
    Case(
        "data/images.py",
        "give one clean image for each, alike, or None where nothing changed them",
        "ImageSet(images, labels, torch.arange(8), clean=images[:3])",
        """
        ImageSet(images, labels, torch.arange(8), clean=images.clone())
        ImageSet(images, labels, torch.arange(8), clean=«or (None)»)
        """,
    ),
    Case(
        "data/images.py",
        "batch_size is …, but it must be at least 1",
        "batches(ImageSet(images, labels, torch.arange(8)), 0, seed=0, epoch=0)",
        r"batches(ImageSet(images, labels, torch.arange(8)), «at least (\d)», seed=0, epoch=0)",
    ),
    Case(
        "data/images.py",
        "lower batch_size or turn drop_last off",
        "batches(ImageSet(images, labels, torch.arange(8)), 16, seed=0, epoch=0, drop_last=True)",
        r"""
        data = ImageSet(images, labels, torch.arange(8))
        assert len(list(batches(data, 4, seed=0, epoch=0, drop_last=True))) == 2
        assert len(list(batches(data, 16, seed=0, epoch=0, «turn (\w+) off»=False))) == 1
        """,
    ),
    Case(
        "data/images.py",
        "but an epoch of these images has … batches",
        "batches(ImageSet(images, labels, torch.arange(8)), 4, seed=0, epoch=0, start=5)",
        r"batches(ImageSet(images, labels, torch.arange(8)), 4, seed=0, epoch=0, start=«has (\d)»)",
    ),
    Case(
        "data/images.py",
        "expected torch.uint8 grey levels or torch.float32 pixels in [0, 1], (N, C, H, W)",
        "ImageSet(images.double(), labels, torch.arange(8))",
        r"ImageSet(images.to(«or (torch.\w+) pixels»), labels, torch.arange(8))",
    ),
    Case(
        "data/images.py",
        "torch.arange(…) numbers the images in order",
        "ImageSet(images, labels, torch.arange(3))",
        r"ImageSet(images, labels, «(torch.arange\(\d+\)) numbers»)",
    ),
    Case(
        "data/images.py",
        "images were asked for, but it must be from 1 to …, all there are",
        "ImageSet(images, labels, torch.arange(8)).first(9)",
        r"ImageSet(images, labels, torch.arange(8)).first(«1 to (\d)»)",
    ),
)
