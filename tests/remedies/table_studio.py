"""Messages of the studio."""

from remedies.cases import Case

ROOMS = ("studio",)

STUDIO = """
import asyncio, base64, io
from starlette.testclient import TestClient
from memory_defense.studio.app import create_app
from memory_defense.studio.guard import Guard, Patience
from memory_defense.studio.library import Library
from memory_defense.studio.runs import Runs
from memory_defense.studio.tickets import Workshop
BASE = "http://127.0.0.1:8765"
untrained("fashion-mnist/tiny", "runs/first")
library = Library(Runs(Path("runs")))
client = TestClient(Guard(create_app(library, Workshop(seconds=600))), base_url=BASE, headers={"origin": BASE})

def answered(answer):
    if answer.status_code != 200:
        raise ValueError(answer.json()["error"])
    return answer

def get(path, **parameters):
    return answered(client.get(path, params=parameters))

def play(**changes):
    attack = {"attack": "pgd", "options": {"steps": 2}, "knowledge": "end-to-end", "epsilon": 0.1, "norm": "linf"}
    image = changes.pop("image", {"test": 0})
    wanted = {"run": "first", "image": image, "attack": attack | changes}
    return answered(client.post("/api/play", json=wanted))

def upload(content, **headers):
    headers = {"content-type": "image/png"} | {name.replace("_", "-"): one for name, one in headers.items()}
    return answered(client.post("/api/image", params={"run": "first"}, content=content, headers=headers))

stream = io.BytesIO()
Image.new("L", (28, 28), 100).save(stream, "PNG")
photo = stream.getvalue()
"""
GUARD = """
import asyncio
from http import HTTPStatus
from memory_defense.studio.guard import Guard, Patience
waits = [1.0, 0.0]

async def slow(scope, receive, send):
    await asyncio.sleep(waits.pop(0))
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"{}"})

def ask(guard, *, path="/", method="GET", body=b"", after=0.0, stop=False):
    headers = {"host": "127.0.0.1", "origin": "http://127.0.0.1", "content-type": "application/json"}
    scope = {"type": "http", "method": method, "path": path}
    scope["headers"] = [(name.encode(), one.encode()) for name, one in headers.items()]
    sent = []

    async def receive():
        await asyncio.sleep(after)
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message):
        sent.append(message)

    async def asked():
        work = asyncio.ensure_future(guard(scope, receive, send))
        await asyncio.sleep(0)
        if stop:
            guard.stop()
        await work

    asyncio.run(asked())
    if sent[0]["status"] != 200:
        raise ValueError(json.loads(sent[1]["body"])["error"])
"""


def _studio(file: str, says: str, wrong: str, right: str, given: str = "", **more: str) -> Case:
    """Return a case of the studio around one run, whose weights were drawn."""
    return Case(f"studio/{file}.py", says, wrong, right, f"{STUDIO}\n{given}", **more)


CASES = (
    _studio(
        "app",
        "there is nothing at this address; start at /",
        "get('/attack')",
        "get('«start at (.*)»')",
    ),
    _studio(
        "describe",
        "no threshold has been chosen; choose one with: memdef evaluate … --detection",
        "raise ValueError(flag_of('first'))",
        """
        memdef("«with: (.*)» --attacks fgsm --images 2")
        assert flag_of("first").startswith("It flags")
        """,
        """
from memory_defense.studio.describe import describe_run

def flag_of(name):
    return describe_run(Library(Runs(Path("runs"))), name).flag
""",
    ),
    _studio(
        "duel",
        "takes images of …, … those of …; choose two runs of one dataset",
        "compared('second')",
        "compared('third')",
        """
untrained("cifar10/tiny/memory-defense", "runs/second")
untrained("fashion-mnist/tiny", "runs/third")

def compared(other):
    attack = {"attack": "pgd", "options": {"steps": 2}, "knowledge": "end-to-end", "epsilon": 0.1, "norm": "linf"}
    wanted = {"runs": ["first", other], "image": {"test": 0}, "attack": attack}
    return answered(client.post("/api/compare", json=wanted))
""",
    ),
    Case(
        "studio/guard.py",
        "the studio is stopping; start it again and send this once more",
        "ask(Guard(slow, patience=Patience(last_seconds=0.01)), stop=True)",
        "ask(Guard(slow))",
        GUARD,
    ),
    Case(
        "studio/guard.py",
        "the answer took too long; try again",
        "guard = Guard(slow, patience=Patience(request_seconds=0.05)); ask(guard)",
        "ask(guard)",
        GUARD,
    ),
    Case(
        "studio/guard.py",
        "to arrive; try again",
        "guard = Guard(slow, patience=Patience(body_seconds=0.05)); ask(guard, method='POST', after=1)",
        "waits.pop(0); ask(guard, method='POST')",
        GUARD,
    ),
    Case(
        "studio/guard.py",
        "too many uploads at once; try again in a few seconds",
        "guard._held = 64 << 20; ask(guard, path='/api/image', method='POST', body=b'1')",
        "guard._held = 0; waits.pop(0); ask(guard, path='/api/data', method='POST', body=b'1')",
        f"{GUARD}\nguard = Guard(slow)",
    ),
    _studio(
        "guard",
        "the studio does not answer to the name …; open it by its number, such as 127.0.0.1",
        "answered(client.get('/', headers={'host': 'my.example:8765'}))",
        "answered(client.get('/', headers={'host': '«such as (.*)»:8765'}))",
    ),
    _studio(
        "guard",
        "only the studio's own page may ask for this; set the header Origin: http://…",
        "upload(photo, origin='http://elsewhere')",
        "upload(photo, **{'«header (.*): http»': '«Origin: (.*)»'})",
    ),
    _studio(
        "guard",
        "only the studio's own page may ask for this; use it there",
        "answered(client.get('/api/studio', headers={'sec-fetch-site': 'cross-site'}))",
        "answered(client.get('/api/studio', headers={'sec-fetch-site': 'same-origin'}))",
    ),
    _studio(
        "guard",
        "send the bytes of the image file alone, as image/png or application/octet-stream",
        "upload(photo, content_type='multipart/form-data')",
        r"upload(photo, content_type='«as (\S+) or»'); upload(photo, content_type='«or (application/\S+)»')",
    ),
    _studio(
        "guard",
        "send application/json",
        "answered(client.post('/api/play', content=b'{}', headers={'content-type': 'text/plain'}))",
        "assert 'run' in client.post('/api/play', content=b'{}', headers={'content-type': '«send (.*)»'}).text",
    ),
    _studio(
        "knowledge",
        "… …; choose …, or another knowledge",
        "play(knowledge='steering')",
        """
        chosen = "«choose ([a-z0-9-]+)»"
        play(knowledge="steering", attack=chosen, options={})
        play(knowledge="end-to-end")
        """,
    ),
    _studio(
        "library",
        "of base64, at most … for images of …; upload or draw the image again for this defense",
        "play(image={'pixels': base64.b64encode(bytes(3 * 32 * 32)).decode()})",
        "play(image={'pixels': upload(photo).json()['pixels']})",
    ),
    Case(
        "studio/uploads.py",
        "and the model takes … x …; choose one of that aspect",
        "decode(picture(20, 10), shape)",
        "decode(picture(8, 8), shape)",
        given="""
        import io
        from memory_defense.data.geometry import Geometry
        from memory_defense.studio.library import Shape
        from memory_defense.studio.uploads import decode
        shape = Shape("mine", 3, 8, ("a", "b"), Geometry(resize=8))

        def picture(*sides):
            stream = io.BytesIO()
            Image.new("RGB", sides, "red").save(stream, "PNG")
            return stream.getvalue()
        """,
    ),
    _studio(
        "library",
        "bytes, but images of … have …; upload or draw the image again for this defense",
        "play(image={'pixels': base64.b64encode(bytes(100)).decode()})",
        "play(image={'pixels': upload(photo).json()['pixels']})",
    ),
    _studio(
        "library",
        "upload or draw one, or run 'memdef data …' and start the studio again",
        "lost = Library(Runs(Path('runs'))); lost.test_images('fashion-mnist')",
        """
        play(image={"pixels": upload(photo).json()["pixels"]})
        patch.setenv("MEMDEF_DATA", there)
        memdef("«or run '(memdef .*?)'»")
        Library(Runs(Path("runs"))).test_images("fashion-mnist")
        """,
        """
import os
from memory_defense.data import sources
there = os.environ["MEMDEF_DATA"]
patch.delenv("MEMDEF_DATA")
patch.setenv("MEMDEF_CACHE", str(Path("cache").absolute()))
patch.setattr(sources, "SYSTEM", {})
""",
    ),
    _studio(
        "library",
        "an image is named by test, a position, or by pixels; give exactly one of them",
        "play(image={})",
        "play(image={'test': 3})",
    ),
    _studio(
        "library",
        "pixels are not base64 (…); upload or draw the image again",
        "play(image={'pixels': '#'})",
        "play(image={'pixels': upload(photo).json()['pixels']})",
    ),
    _studio(
        "library",
        "does not exist; choose 0 to …",
        "play(image={'test': 5000})",
        r"play(image={'test': «choose 0 to (\d+)»})",
    ),
    Case(
        "studio/library.py",
        "put them back and choose the run again, or …",
        "Path('shapes').rename('away'); own()",
        "Path('away').rename('shapes'); own()",
        """
        hardened()
        manifest = Path("run/manifest.json")
        kept = json.loads(manifest.read_text())
        kept["images_from"]["source"] = str(Path("shapes").absolute())
        RunDirectory(Path("run")).write(kept)
        from memory_defense.studio.library import own_source, own_test_images
        from memory_defense.studio.runs import Runs

        def own():
            found = Runs(Path(".")).find("run")
            return own_test_images(found, own_source(found))
        """,
    ),
    Case(
        "studio/library.py",
        "…: restore them and choose the run again, or …",
        "one = next(Path('shapes/test').rglob('*.png')); one.rename('kept.png'); own()",
        "Path('kept.png').rename(one); own()",
        """
        hardened()
        manifest = Path("run/manifest.json")
        kept = json.loads(manifest.read_text())
        kept["images_from"]["source"] = str(Path("shapes").absolute())
        RunDirectory(Path("run")).write(kept)
        from memory_defense.studio.library import own_source, own_test_images
        from memory_defense.studio.runs import Runs

        def own():
            found = Runs(Path(".")).find("run")
            return own_test_images(found, own_source(found))
        """,
    ),
    _studio(
        "play",
        "but the studio goes up to … in …",
        "play(epsilon=0.9)",
        r"play(epsilon=«up to ([\d.]+) in»)",
    ),
    _studio(
        "play",
        "but there are … classes, numbered from 0",
        "answered(client.post('/api/play', json=labelled(10)))",
        r"answered(client.post('/api/play', json=labelled(«there are (\d+)» - 1)))",
        """
def labelled(label):
    attack = {"attack": "pgd", "options": {"steps": 2}, "knowledge": "end-to-end", "epsilon": 0.1, "norm": "linf"}
    return {"run": "first", "image": {"test": 0}, "label": label, "attack": attack}
""",
    ),
    _studio(
        "play",
        "but the studio takes 1 to …; for more, use 'memdef evaluate'",
        "play(options={'steps': 100_000})",
        r"""
        play(options={"steps": «1 to (\d+);»})
        memdef("«use '(memdef evaluate)'» runs/first --attacks fgsm --images 2")
        """,
    ),
    _studio(
        "runs",
        "has no record; make one with: memdef evaluate …",
        "get('/report', name='first')",
        "memdef(\"«with: (.*)» --images 2\"); get('/report', name='first')",
    ),
    _studio(
        "runs",
        "is not finished; continue it with 'memdef train --resume'",
        "raise ValueError(Runs(Path('half')).find('run').fault())",
        """
        memdef("«with '(memdef train)» fashion-mnist/tiny --train-images 50 --out half/run «train (--resume)»")
        assert not Runs(Path("half")).find("run").fault()
        """,
        """
from memory_defense.training import fit

def pressed(*values):
    raise KeyboardInterrupt

with patch.context() as stopped:
    stopped.setattr(fit._Run, "_score", pressed)
    try:
        memdef("memdef train fashion-mnist/tiny --train-images 50 --out half/run")
    except Exception:
        pass
""",
    ),
    _studio(
        "runs",
        "give one that holds runs, such as the --out of 'memdef train', or make one with 'memdef demo'",
        "Runs(Path('nowhere'))",
        """
        memdef("memdef train fashion-mnist/tiny --train-images 50 --out nowhere")
        assert Runs(Path("nowhere")).all()
        """,
    ),
    Case(
        "studio/server.py",
        "cannot listen on …, port … (…); choose another with --port or --host",
        "taken = socket.create_server(('127.0.0.1', 0)); port = taken.getsockname()[1]; listen(port=port)",
        """
        listen(«with --(port) or»=0)
        taken.close()
        """,
        """
        from memory_defense.studio.server import StudioOptions, _listening

        def listen(**where):
            _listening(StudioOptions(runs=Path("."), **where)).close()
        """,
    ),
    _studio(
        "tickets",
        "choose fewer steps, restarts or queries, or a cheaper attack",
        "play(attack='square', options={'queries': 400}, knowledge='end-to-end')",
        """
        play(attack="square", options={"«fewer steps, restarts or (queries)»": 1})
        play(attack="fgsm", options={})
        """,
        """
from memory_defense.studio import tickets
began = tickets.Ticket.begin
slow = [True]

def late(ticket):
    began(ticket)
    if slow.pop() if slow else False:
        ticket._deadline = 0.0

patch.setattr(tickets.Ticket, "begin", late)
""",
    ),
    Case(
        "studio/tickets.py",
        "computations are waiting already; try again in a few seconds",
        "asyncio.run(workshop.run(lambda ticket: 3, gone))",
        "workshop._inside = 0; assert asyncio.run(workshop.run(lambda ticket: 3, gone)) == 3",
        """
        import asyncio
        workshop = Workshop(seconds=5, waiting=1)
        workshop._inside = 1

        async def gone():
            return False
        """,
    ),
    _studio("uploads", "convert it to PNG", "upload(b'no image')", "upload(photo, content_type='image/png')"),
    _studio("uploads", "choose another", "upload(photo[:40])", "upload(photo)"),
)
