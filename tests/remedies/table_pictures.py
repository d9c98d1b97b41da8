"""Messages about picture files."""

from remedies.cases import Case
from remedies.own_images import PICTURE, PICTURES, of_picture, of_pictures

ROOMS = tuple(f"data/{name}.py" for name in ("image_files", "pictures"))

CASES = (
    Case(
        "data/pictures.py",
        "and the model takes … x …; give --geometry resize=N,crop=…",
        "said = brought('resize=12').reason",
        "assert isinstance(brought('resize=12,crop=«crop=(\\d+)»'), Picture)",
        f"""{PICTURES}
from memory_defense.data.geometry import Geometry
Image.new("L", (20, 20)).save(photo)

def brought(line):
    (found,) = pictures([photo], channels=1, size=8, geometry=Geometry.parse(line))
    return found
""",
    ),
    of_picture(
        "is truncated or damaged (…); replace or remove it",
        "photo.write_bytes(b'\\xff\\xd8\\xff')",
        "grey.save(photo)",
    ),
    of_picture(
        "is not a … image, whatever its name says; convert it or remove it",
        "np.save('photo.npy', np.asarray(grey)); Path('photo.npy').rename(photo)",
        "Image.fromarray(np.load(photo)).save('photo.jpg'); photo = Path('photo.jpg')",
    ),
    of_picture(
        "has transparent pixels; paint it on a background and …",
        "see_through = Image.new('RGBA', (8, 8), (200, 0, 0, 90)); see_through.save(photo)",
        r"""
painted = Image.new("RGBA", (8, 8), "white")
painted.alpha_composite(see_through)
painted.convert("«grey or (RGB)»").save(photo, "«RGB (\w+)$»")
""",
    ),
    of_picture(
        "has more than … bytes; make it smaller…",
        "Image.effect_noise((64, 64), 50).save(photo); limits = Limits(file_bytes=1000)",
        r"Image.open(photo).resize((8, 8)).save(photo); assert photo.stat().st_size <= «more than (\d+)»",
    ),
    of_picture("is empty; replace or remove it", "photo.touch()", "grey.save(photo)"),
    of_picture(
        "has … x … pixels, at most … are decoded; make it smaller…",
        "Image.new('L', (100, 100)).save(photo); limits = Limits(file_pixels=1000)",
        "Image.open(photo).resize((8, 8)).save(photo)",
    ),
    of_picture(
        "save it as an 8-bit grey or RGB PNG",
        "Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000).save(photo)",
        "Image.fromarray((np.asarray(Image.open(photo)) // 256).astype(np.uint8)).save(photo, '«RGB (PNG)»')",
    ),
    of_picture(
        "is a … file, which is not read; convert it to PNG, or remove it",
        "photo.write_bytes(b'8BPS' + bytes(40))",
        "grey.save(photo, '«to (PNG)»')",
    ),
    Case(
        "data/image_files.py",
        "… …; …",
        "seen()",
        "Image.open(photo).convert('«grey or (RGB)»').save('photo.png'); photo = Path('photo.png'); seen()",
        f"{PICTURE}\nphoto = Path('photo.jpg'); Image.new('CMYK', (8, 8)).save(photo)",
    ),
    of_pictures(
        "is not there, or no longer (…); name one that is", "grey.save(photo)", "'phot.png'", "read('photo.png')"
    ),
    of_pictures(
        "cannot be read (…); make it readable with chmod u+r, or copy it again",
        "grey.save(photo); photo.chmod(0)",
        "photo",
        "subprocess.run(['chmod', '«chmod (.*),»', '«(.*) cannot»'], check=True); read(photo)",
    ),
    Case(
        "data/pictures.py",
        "but no array named …; save it under that name",
        "np.savez('mine.npz', pixels=np.asarray(grey)[None]); said = asked('mine.npz').reason",
        "np.savez('mine.npz', **{«named ('.*?')»: np.asarray(grey)[None]}); read('mine.npz')",
        PICTURES,
    ),
    of_pictures(
        "is a link out of …, to …; copy what it leads to instead",
        "grey.save(photo); Path('few').mkdir(); Path('few/one.png').symlink_to(photo.absolute())",
        "'few'",
        "Path('few/one.png').unlink(); shutil.copy('«, to (.*); copy»', 'few/one.png'); read('few')",
    ),
    of_pictures(
        "is a link to a folder; remove it, or name that folder too",
        "Path('few/more').mkdir(parents=True); grey.save('few/more/one.png'); Path('few/a').symlink_to('more')",
        "'few'",
        "read('few/more'); Path('few/a').unlink(); read('few')",
    ),
    of_pictures(
        "is a link to nothing; remove it",
        "Path('few').mkdir(); Path('few/a.png').symlink_to('gone.png'); grey.save('few/b.png')",
        "'few'",
        "Path('«(.*) is a link»').unlink(); read('few')",
    ),
    of_pictures(
        "is not a file of pixels; remove it",
        "import os; Path('few').mkdir(); os.mkfifo('few/a.png'); grey.save('few/b.png')",
        "'few'",
        "Path('«(.*) is not a file»').unlink(); read('few')",
    ),
    of_pictures(
        "the folder holds no file; put one there, such as a …",
        "Path('few').mkdir()",
        "'few'",
        "grey.save('few/one«a (.png) or»'); read('few')",
    ),
    of_pictures(
        "is not a regular file; name a file",
        "import os; os.mkfifo('pipe'); grey.save(photo)",
        "'pipe'",
        "read(photo)",
    ),
    Case(
        "data/pictures.py",
        "expected (N, H, W), (N, C, H, W) or (N, H, W, C), C 1 or 3",
        "np.savez('mine.npz', images=np.asarray(grey)); said = asked('mine.npz').reason",
        "np.savez('mine.npz', images=np.asarray(grey)[None]); read('mine.npz')",
        PICTURES,
    ),
    Case(
        "data/pictures.py",
        "expected uint8 grey levels or float pixels in [0, 1]",
        "np.savez('mine.npz', images=np.asarray(grey)[None].astype(int)); said = asked('mine.npz').reason",
        r"np.savez('mine.npz', images=np.asarray(grey)[None].astype('«expected (\w+)»')); read('mine.npz')",
        PICTURES,
    ),
)
