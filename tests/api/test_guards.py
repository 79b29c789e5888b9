"""Cross-origin rules and the Host allow-list."""

from __future__ import annotations

import socket
from typing import Any

import psutil
import pytest
from litestar.testing import TestClient

from api.app import create_app
from api.guards import is_local_host
from tests.api.fake import FakeService, FakeSettings


def ask(
    method: str = "GET",
    path: str = "/api/version",
    settings: FakeSettings = FakeSettings(),  # noqa: B008
    **headers: str,
) -> Any:
    with TestClient(create_app(FakeService(), settings)) as client:
        return client.request(method, f"http://localhost:11434{path}", headers=headers)


@pytest.mark.parametrize(
    "origin",
    [
        "http://localhost",
        "https://localhost:3000",
        "http://127.0.0.1:8080",
        "https://0.0.0.0",
        "app://obsidian.md",
        "tauri://localhost",
        "vscode-webview://0abc",
        "file://",
    ],
)
def test_local_origins_are_allowed(origin: str) -> None:
    response = ask(origin=origin)
    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == origin
    assert response.headers["vary"] == "Origin"
    assert "access-control-allow-credentials" not in response.headers


@pytest.mark.parametrize("method", ["GET", "OPTIONS", "POST"])
@pytest.mark.parametrize("path", ["/api/version", "/api/stats", "/api/nothing", "/openapi.json", "/api/tags/"])
@pytest.mark.parametrize(
    "origin",
    ["https://evil.example", "http://localhost.evil.example", "null", "chrome-extension://x", "ftp://localhost"],
)
def test_other_origins_are_refused(method: str, path: str, origin: str) -> None:
    response = ask(method, path, origin=origin)
    assert (response.status_code, response.content) == (403, b"")
    assert "access-control-allow-origin" not in response.headers


@pytest.mark.parametrize("origin", ["http://localhost:11434", "https://localhost:11434"])
def test_the_same_origin_is_no_cross_origin(origin: str) -> None:
    response = ask(origin=origin)
    assert response.status_code == 200
    assert "access-control-allow-origin" not in response.headers


def test_configured_origins() -> None:
    settings = FakeSettings(origins=("chrome-extension://*", "https://App.example"))
    for origin in ("chrome-extension://abc", "https://app.example", "http://localhost:1"):
        assert ask(settings=settings, origin=origin).status_code == 200
    for origin in ("https://app.example:444", "https://appxexample"):
        assert ask(settings=settings, origin=origin).status_code == 403


def test_any_origin() -> None:
    settings = FakeSettings(origins=("*",))
    response = ask(settings=settings, origin="https://anything.example")
    assert (response.status_code, response.headers["access-control-allow-origin"]) == (200, "*")
    assert "vary" not in response.headers


def test_errors_carry_the_grant_too() -> None:
    response = ask("POST", "/api/chat", origin="http://localhost:3000")
    assert (response.status_code, response.json()) == (400, {"error": "missing request body"})
    assert response.headers["access-control-allow-origin"] == "http://localhost:3000"


def test_preflight() -> None:
    response = ask("OPTIONS", "/api/chat", origin="http://localhost:3000")
    assert (response.status_code, response.content) == (204, b"")
    assert response.headers["access-control-allow-origin"] == "http://localhost:3000"
    assert response.headers["access-control-allow-methods"] == "GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS"
    assert response.headers["access-control-max-age"] == "43200"
    allowed = response.headers["access-control-allow-headers"].split(",")
    assert {"Authorization", "Content-Type", "OpenAI-Beta", "x-stainless-retry-count"} <= set(allowed)
    assert "x-api-key" not in allowed


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:11434",
        "127.0.0.1:11434",
        "127.8.8.8",
        "[::1]:11434",
        "[::1]",
        "0.0.0.0",
        "10.1.2.3",
        "172.31.0.1:80",
        "192.168.1.5",
        "[fd00::1]",
        "box.local:11434",
        "a.localhost",
        "ollama.internal",
        "",
        socket.gethostname(),
    ],
)
def test_local_hosts(host: str) -> None:
    assert is_local_host(host)


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:11434", "8.8.8.8", "172.32.0.1", "localhost.evil.example", "[2001:db8::1]", "a:b:c"],
)
def test_foreign_hosts(host: str) -> None:
    assert not is_local_host(host)


def test_an_address_of_an_interface_is_local() -> None:
    addresses = [
        entry.address
        for entries in psutil.net_if_addrs().values()
        for entry in entries
        if entry.family == socket.AF_INET
    ]
    assert addresses
    assert all(is_local_host(address) for address in addresses)


@pytest.mark.parametrize("listening", ["127.0.0.1", "::1", "localhost"])
def test_foreign_names_are_refused_on_loopback(listening: str) -> None:
    settings = FakeSettings(host=listening)
    for path in ("/api/version", "/api/nothing", "/"):
        response = ask(path=path, settings=settings, host="evil.example")
        assert (response.status_code, response.content) == (403, b"")
    assert ask(settings=settings, host="box.local").status_code == 200
    assert ask("OPTIONS", settings=settings, host="box.local").status_code == 204
    assert ask("OPTIONS", settings=settings, host="evil.example").status_code == 403
    for hosts in (("evil.example", "localhost"), ("localhost", "evil.example")):
        with TestClient(create_app(FakeService(), settings)) as client:
            assert client.get("/api/version", headers=[("host", host) for host in hosts]).status_code == 403


@pytest.mark.parametrize("listening", ["0.0.0.0", "::", "192.168.1.5"])
def test_a_server_on_a_network_is_named_freely(listening: str) -> None:
    settings = FakeSettings(host=listening)
    assert ask(settings=settings, host="ollama.example").status_code == 200
    response = ask("OPTIONS", settings=settings, host="ollama.example")
    assert (response.status_code, response.headers["allow"]) == (405, "GET, HEAD")
    assert ask("OPTIONS", "/api/nothing", settings=settings, host="ollama.example").status_code == 404
