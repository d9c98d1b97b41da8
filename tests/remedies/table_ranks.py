"""Messages of several processes that work as one; they meet at a table in this process."""

from remedies.cases import Case

ROOMS = ("ranks.py",)

MEETING = """
import threading
import time
from datetime import timedelta
times = [0.0]

class Store(dict):
    gone, timeout = False, timedelta(seconds=50)

    def set(self, key, value):
        self[key] = value.encode()

    def get(self, key):
        return self[key]

    def check(self, keys):
        if self.gone:
            raise RuntimeError("connection reset")
        return all(key in self for key in keys)

    def delete_key(self, key):
        return self.pop(key, None) is not None

def leaping():
    times[0] += 30.0
    return times[0]

def company(store, *ranks):
    before = _Calls.made
    members = []
    for rank in ranks:
        _Calls.made = before
        members.append(Company(store, rank, 2, "evaluate", leaping))
    return members

def met(*members):
    for one in members:
        one.clock = time.monotonic
    threads = [threading.Thread(target=one.meet) for one in members]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert {one.meetings for one in members} == {1}
    for one in members:
        one.end()
"""
ANEW = "start all ranks again; an evaluation that writes a record goes on from where it was"


def _rank(says: str, wrong: str, right: str, given: str = "", **more: str) -> Case:
    return Case("ranks.py", says, wrong, right, f"{MEETING}\n{given}", **more)


CASES = (
    _rank(
        "all … ranks must call …; to evaluate on one alone, give it Options(alone=True)",
        "company(Store(), 0)[0].meet()",
        """
        met(*company(Store(), 0, 1))
        evaluate(net, images, labels, epsilon=0.1, attacks="fgsm", options=«give it (Options.*)$»)
        """,
    ),
    _rank(
        ANEW,
        "store.gone = True; one.meet()",
        "met(*company(Store(), 0, 1))",
        "store = Store(); one, other = company(store, 0, 1)",
        within="has lost the process that the ranks meet at (…); …",
    ),
    _rank(
        "has given no sign of life for … s; …",
        "one.meetings = 1; one.meet()",
        "met(*company(Store(), 0, 1))",
        "store = Store(); one, other = company(store, 0, 1)",
        ends=ANEW,
    ),
    _rank(
        "has lost another rank (…), which has ended; …",
        "together(True)",
        "together(False)",
        """
        class Here:
            def meet(self):
                pass

        def together(ended):
            with Ranks(0, 2, Here())._together():
                if ended:
                    raise RuntimeError("connection closed by peer")
        """.replace("        ", "", 1).replace("\n        ", "\n"),
        ends=ANEW,
    ),
    _rank(
        "give every rank the same, or evaluate on each alone with Options(alone=True)",
        "Two(0, 2).agree_on({'epsilon': '0.1'})",
        """
        theirs["epsilon"] = "0.1"
        Two(0, 2).agree_on({"epsilon": "0.1"})
        evaluate(net, images, labels, epsilon=0.1, attacks="fgsm", options=«with (Options.*)$»)
        """,
        """
theirs = {"epsilon": "0.2"}

class Two(Ranks):
    def gather(self, tensors):
        said = torch.frombuffer(bytearray(json.dumps(theirs).encode()), dtype=torch.uint8)
        return [tensors, {"said": said}]
""",
    ),
)
