"""Only pages of the studio itself may talk to it, and no body is too long or too slow."""

import pytest

from memory_defense.studio.guard import RefusedError, check_request, is_own_name

OWN = {"host": "127.0.0.1:8765", "origin": "http://127.0.0.1:8765"}


@pytest.mark.parametrize(
    "host", ["127.0.0.1:8765", "127.0.0.1", "localhost:1", "LOCALHOST", "[::1]:80", "127.9.9.9"]
)
def test_this_machine_goes_by_these_names(host) -> None:
    assert is_own_name(host, local_only=True)


@pytest.mark.parametrize(
    "host",
    [
        "",
        "evil.example",
        "evil.example:8765",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "127.0.0.1@evil.example",
        "127.0.0.1:8765/x",
        "192.168.0.7",
        "0x7f.1",
        "127.1",
        "[::1",
        "[::ffff:10.0.0.1]",
        "127.0.0.1:8765 evil",
    ],
)
def test_and_by_no_other(host) -> None:
    assert not is_own_name(host, local_only=True)


def test_on_a_public_address_numbers_are_names_but_names_are_not() -> None:
    assert is_own_name("192.168.0.7:8765", local_only=False)
    assert not is_own_name("rebound.example:8765", local_only=False)


@pytest.mark.parametrize(
    "changes",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": ""},
        {"origin": "http://127.0.0.1:8766"},
        {"origin": "https://127.0.0.1:8765"},
        {"origin": "http://127.0.0.1:8765.evil.example"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"host": "evil.example", "origin": "http://evil.example"},
    ],
)
def test_work_is_done_for_the_own_page_only(changes) -> None:
    check_request("POST", "/api/play", OWN, local_only=True)
    with pytest.raises(RefusedError):
        check_request("POST", "/api/play", {**OWN, **changes}, local_only=True)


def test_other_pages_may_link_here_but_not_read_here() -> None:
    from_elsewhere = {"host": "127.0.0.1:8765", "sec-fetch-site": "cross-site"}
    check_request("GET", "/", from_elsewhere, local_only=True)
    with pytest.raises(RefusedError, match="own page"):
        check_request("GET", "/api/run", from_elsewhere, local_only=True)
    with pytest.raises(RefusedError, match="own page"):
        check_request("GET", "/report", from_elsewhere, local_only=True)


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"])
def test_other_methods_are_never_used(method) -> None:
    with pytest.raises(RefusedError, match="never used"):
        check_request(method, "/", OWN, local_only=True)


def test_every_answer_has_the_strict_headers(client) -> None:
    for path in ("/", "/static/studio.js", "/api/studio", "/nothing", "/api/run?run=none"):
        headers = client.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert not [name for name in headers if name.startswith("access-control")]


def test_refusals_are_json_with_the_headers_too(client) -> None:
    for answer in (
        client.get("/", headers={"host": "evil.example"}),
        client.post("/api/play", headers={"origin": "http://evil.example"}, json={}),
        client.options("/api/play"),
    ):
        assert answer.status_code in (403, 405, 421)
        assert answer.json()["error"]
        assert "access-control-allow-origin" not in answer.headers
        assert "default-src 'none'" in answer.headers["content-security-policy"]


@pytest.mark.parametrize(("path", "limit"), [("/api/image?run=first", 8 << 20), ("/api/play", 1 << 18)])
def test_long_bodies_are_refused_announced_or_not(client, path, limit) -> None:
    def dripping():
        for _ in range(limit // 65536 + 1):
            yield bytes(65536)

    for content in (bytes(limit + 1), dripping()):
        answer = client.post(path, content=content)
        assert answer.status_code == 413
        assert str(limit) in answer.json()["error"]


@pytest.mark.parametrize("length", ["-1", "1e3", "9" * 30, "abc", "+5"])
def test_a_length_that_is_none_is_refused(client, length) -> None:
    assert client.post("/api/play", headers={"content-length": length}, content=b"").status_code == 413
