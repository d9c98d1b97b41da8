"""Real sockets: slow clients are cut off, and they never keep a normal one waiting."""

import contextlib
import json
import socket
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest

from memory_defense.contracts import Images, Logits
from memory_defense.studio import server as module
from memory_defense.studio import tickets
from memory_defense.studio.guard import Patience
from memory_defense.studio.server import PromptProtocol, StudioOptions, serve

from .conftest import Running, attack

SLOW = 50


def ask(running: Running, path: str = "/api/play", body: dict | None = None) -> dict:
    message = body or {"run": "first", "image": {"test": 0}, "attack": attack()}
    headers = {"Origin": running.address, "Content-Type": "application/json"}
    request = urllib.request.Request(running.address + path, json.dumps(message).encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def connected(running: Running, content: bytes) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", running.port), timeout=30)
    client.sendall(content)
    return client


def rest(client: socket.socket) -> bytes:
    """Return what still comes until the server closes the connection or resets it."""
    received = b""
    with contextlib.suppress(ConnectionError):
        while part := client.recv(65536):
            received += part
    return received


def post_head(running: Running, path: str, length: int) -> bytes:
    return (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{running.port}\r\nOrigin: {running.address}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    ).encode()


@pytest.mark.parametrize("stage", ["silent", "in the headers", "in the body", "in an upload", "not reading"])
def test_fifty_slow_clients_do_not_stop_a_normal_one(running, stage) -> None:
    host = f"Host: 127.0.0.1:{running.port}\r\n".encode()
    content = {
        "silent": b"",
        "in the headers": b"GET / HTTP/1.1\r\n" + host,
        "in the body": post_head(running, "/api/play", 500) + b'{"run":',
        "in an upload": post_head(running, "/api/image?run=first", 1 << 20) + b"\x89PNG",
        "not reading": (b"GET /static/results.css HTTP/1.1\r\n" + host + b"\r\n") * 20,
    }[stage]
    slow = [connected(running, content) for _ in range(SLOW)]
    try:
        assert ask(running)["run"] == "first"
        with urllib.request.urlopen(running.address, timeout=30) as page:
            assert b"Memory Defense studio" in page.read()
    finally:
        for client in slow:
            client.close()


def test_headers_and_bodies_that_take_too_long_are_cut_off(root, splits, monkeypatch) -> None:
    monkeypatch.setattr(module, "HEADER_SECONDS", 0.5)
    with Running(root, splits, patience=Patience(body_seconds=0.5)) as running:
        silent = connected(running, b"")
        dripping = connected(running, b"GET / HTTP/1.1\r\nHost: 127.0.0.1")
        second = connected(running, f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{running.port}\r\n\r\nGET".encode())
        body = connected(running, post_head(running, "/api/play", 500) + b'{"run":')
        assert b"408" in rest(body).split(b"\r\n")[0]
        assert rest(silent) == rest(dripping) == b"", "reset or closed, without an answer"
        assert b"200 OK" in rest(second)


def test_a_heavy_attack_is_bounded_and_the_next_one_served(root, splits, monkeypatch) -> None:
    quick = tickets.Watched.__call__

    def heavily(watched: tickets.Watched, images: Images) -> Logits:
        time.sleep(0.2)  # a pass of a large network, on any machine
        return quick(watched, images)

    monkeypatch.setattr(tickets.Watched, "__call__", heavily)
    with Running(root, splits, seconds=2) as running:
        heavy = attack(attack="square", options={"queries": 5000}, epsilon=0.0001)
        message = {"run": "first", "image": {"test": 0}, "attack": heavy}
        label = ask(running)["clean"]["answer"]
        with pytest.raises(urllib.error.HTTPError) as refused:
            ask(running, body={**message, "label": label})
        assert refused.value.code == 503
        assert "stopped after 2 s" in json.load(refused.value)["error"]
        assert ask(running)["run"] == "first"


def test_a_page_that_goes_away_frees_the_worker(root, splits) -> None:
    with Running(root, splits, seconds=60) as running:
        label = ask(running)["clean"]["answer"]
        heavy = attack(attack="square", options={"queries": 5000}, epsilon=0.0001)
        body = json.dumps({"run": "first", "image": {"test": 0}, "label": label, "attack": heavy}).encode()
        leaving = [connected(running, post_head(running, "/api/play", len(body)) + body) for _ in range(5)]
        time.sleep(0.3)
        for client in leaving:
            client.close()
        started = time.monotonic()
        assert ask(running)["run"] == "first"
        assert time.monotonic() - started < 20, "five abandoned attacks of up to a minute each were waited for"


@pytest.mark.parametrize(
    "content",
    [
        b"\x00" * 2000,
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"A" * 100_000,
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    ],
)
def test_what_is_no_http_is_refused(running, content) -> None:
    first = rest(connected(running, content)).split(b"\r\n")[0] or b"400"  # or reset
    assert b"400" in first or b"421" in first
    assert ask(running)["run"] == "first"


def test_an_address_that_is_taken_is_said(root) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"port {port} .*choose another with --port"):
            serve(StudioOptions(runs=root, port=port), print)


@pytest.mark.parametrize(
    ("host", "local"), [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False)]
)
def test_what_counts_as_this_machine_alone(root, host, local) -> None:
    assert StudioOptions(runs=root, host=host).local_only is local
    assert StudioOptions(runs=root).host == "127.0.0.1"


def test_the_protocol_is_in_use(running) -> None:
    assert running.server.config.http_protocol_class is PromptProtocol


def upload_head(running: Running, kind: str = "image/png", *more: str) -> bytes:
    lines = [
        "POST /api/image?run=first HTTP/1.1",
        f"Host: 127.0.0.1:{running.port}",
        f"Origin: {running.address}",
        f"Content-Type: {kind}",
        *more,
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def answered(client: socket.socket) -> tuple[int, dict]:
    """Return the status and the message of an answer that is read to its end."""
    head, _, body = rest(client).partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


def test_an_upload_over_the_limit_gets_its_answer_while_it_is_still_sent(running) -> None:
    size = 40 << 20
    client = connected(running, upload_head(running, "image/png", f"Content-Length: {size}"))
    sent = 0
    while sent < size:  # what a browser does: all of it, and then the answer is read
        sent += client.send(bytes(1 << 16))
    status, said = answered(client)
    assert status == 413
    assert str(8 << 20) in said["error"]


def test_an_upload_of_unknown_length_gets_it_too(running) -> None:
    client = connected(running, upload_head(running, "image/png", "Transfer-Encoding: chunked"))
    chunk = b"10000\r\n" + bytes(1 << 16) + b"\r\n"
    for _ in range(300):
        client.sendall(chunk)
    client.sendall(b"0\r\n\r\n")
    assert answered(client)[0] == 413


def test_the_answer_does_not_wait_for_the_body(running) -> None:
    client = connected(running, upload_head(running, "image/png", f"Content-Length: {1 << 30}"))
    received = b""
    while b"}" not in received:  # nothing of the body was sent
        received += client.recv(4096)
    assert received.startswith(b"HTTP/1.1 413")
    client.close()


def test_many_uploads_over_the_limit_at_once_leave_it_well(running) -> None:
    size = 9 << 20
    clients = [connected(running, upload_head(running, "", f"Content-Length: {size}")) for _ in range(12)]
    with ThreadPoolExecutor(len(clients)) as pool:
        list(pool.map(lambda one: one.sendall(bytes(size)), clients))
        found = list(pool.map(answered, clients))
    assert [status for status, _ in found] == [413] * len(clients)
    assert running.server.config.app._held == 0
    assert ask(running)["run"] == "first"


@pytest.mark.parametrize(
    ("path", "kind", "status"),
    [
        ("/api/image?run=first", "multipart/form-data; boundary=x", 415),
        ("/api/image?run=first", "application/x-www-form-urlencoded", 415),
        ("/api/image?run=first", "text/html", 415),
        ("/api/play", "text/plain", 415),
        ("/api/play", "", 415),
    ],
)
def test_a_body_of_another_type_is_said_to_be_one(client, path, kind, status) -> None:
    answer = client.post(path, content=b"{}", headers={"content-type": kind} if kind else {})
    assert answer.status_code == status
    assert "send" in answer.json()["error"]


def test_what_is_under_way_when_it_stops_gets_an_answer(root, splits, monkeypatch) -> None:
    begun = threading.Event()
    quick = tickets.Watched.__call__

    def heavily(watched: tickets.Watched, images: Images) -> Logits:
        begun.set()
        time.sleep(0.05)
        return quick(watched, images)

    with Running(root, splits, seconds=60) as running:
        label = ask(running)["clean"]["answer"]
        monkeypatch.setattr(tickets.Watched, "__call__", heavily)
        heavy = attack(attack="square", options={"queries": 5000}, epsilon=0.0001)
        body = json.dumps({"run": "first", "image": {"test": 0}, "label": label, "attack": heavy}).encode()
        played = [connected(running, post_head(running, "/api/play", len(body)) + body) for _ in range(3)]
        half = connected(running, upload_head(running, "image/png", "Content-Length: 1000") + b"\x89PNG")
        assert begun.wait(30)
        running.server.should_exit = True
        for client in (*played, half):
            status, said = answered(client)
            assert status == 503
            assert "stopping" in said["error"]
        running._thread.join(20)
        assert not running._thread.is_alive()
