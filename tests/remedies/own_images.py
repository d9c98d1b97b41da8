"""What the cases about a user's own images begin with."""

from remedies.cases import Case

ARRAYS = """
from memory_defense.data.own import load_images, load_splits
many = np.random.default_rng(0).integers(0, 256, (4, 8, 8), dtype=np.uint8)
answers = np.array([0, 1, 0, 1])

def save(**arrays):
    np.savez("mine.npz", **arrays)
    return load_images("mine.npz")
"""
FOLDER = """
from memory_defense.data.own import load_images, load_splits
folder("mine")
"""
PICTURE = """
from memory_defense.data.image_files import read_image
from memory_defense.data.limits import Limits
photo = Path("photo.png")
grey = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8))
limits = Limits()

def seen():
    return read_image(photo, limits).shape
"""
PICTURES = f"""{PICTURE}
def asked(*paths):
    (found, *_) = pictures([Path(one) for one in paths], channels=1, size=8)
    return found

def read(*paths):
    assert isinstance(asked(*paths), Picture), asked(*paths)
"""


def of_arrays(file: str, says: str, wrong: str, right: str, given: str = "", **more: str) -> Case:
    """Return a case of a file of arrays."""
    return Case(f"data/{file}.py", says, wrong, right, f"{ARRAYS}\n{given}", **more)


def of_folder(file: str, says: str, wrong: str, right: str, given: str = "", **more: str) -> Case:
    """Return a case of a folder of images."""
    return Case(f"data/{file}.py", says, wrong, right, f"{FOLDER}\n{given}", **more)


def of_picture(says: str, given: str, right: str) -> Case:
    """Return a case of one picture."""
    return Case(
        "data/image_files.py", says, "seen()", f"{right}\nassert seen()[:2] == (8, 8)", f"{PICTURE}\n{given}"
    )


def of_pictures(says: str, given: str, wrong: str, right: str) -> Case:
    """Return a case of pictures to predict."""
    wrong = f"said = asked({wrong}).reason"
    return Case("data/pictures.py", says, wrong, right, f"{PICTURES}\n{given}")
