"""Who may talk to this server from a browser: ASGI middleware around the whole application.

Both answer 403 with an empty body. `CORS` comes first: a request that it answers never reaches `Hosts`.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable, Mapping
from typing import Any

import psutil
from litestar.enums import ScopeType
from litestar.types import ASGIApp, Receive, Scope, Send

_LOCAL_HOSTS = ("localhost", "127.0.0.1", "0.0.0.0")
DEFAULT_ORIGINS = (
    *(f"{scheme}://{host}{port}" for host in _LOCAL_HOSTS for scheme in ("http", "https") for port in ("", ":*")),
    *(f"{scheme}://*" for scheme in ("app", "file", "tauri", "vscode-webview", "vscode-file")),
)
_STAINLESS = (
    "arch async custom-poll-interval helper-method lang os package-version poll-helper retry-count "
    "runtime runtime-version timeout"
)
_PREFLIGHT = {
    "access-control-allow-methods": "GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS",
    "access-control-allow-headers": ",".join(
        ["Authorization", "Content-Type", "User-Agent", "Accept", "X-Requested-With", "OpenAI-Beta"]
        + [f"x-stainless-{name}" for name in _STAINLESS.split()]
    ),
    "access-control-max-age": "43200",
}
_PRIVATE = tuple(ipaddress.ip_network(net) for net in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"))
_LOCAL_SUFFIXES = (".localhost", ".local", ".internal")


class CORS:
    """Lets pages of `origins` and of the default ones use the API; `*` lets any page."""

    def __init__(self, app: ASGIApp, origins: Iterable[str]) -> None:
        patterns = [*DEFAULT_ORIGINS, *origins]
        self._app = app
        self._any = "*" in patterns
        self._allowed = re.compile("|".join(".*".join(map(re.escape, each.lower().split("*", 1))) for each in patterns))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            return await self._app(scope, receive, send)
        headers = _headers(scope)
        origin = headers.get("origin", "")
        host = headers.get("host", "")
        if not origin or origin in (f"http://{host}", f"https://{host}"):
            return await self._app(scope, receive, send)
        if not self._any and not self._allowed.fullmatch(origin):
            return await _empty(send, 403)
        granted = {"access-control-allow-origin": "*" if self._any else origin}
        if scope["method"] == "OPTIONS":
            vary = "Origin, Access-Control-Request-Method, Access-Control-Request-Headers"
            return await _empty(send, 204, {**granted, **_PREFLIGHT, "vary": vary})
        if not self._any:
            granted["vary"] = "Origin"

        async def granting_send(message: Any) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], *_encoded(granted)]}
            await send(message)

        await self._app(scope, receive, granting_send)


class Hosts:
    """Refuses names that a foreign page may have pointed at this machine (DNS rebinding).

    Only where `listening` is a loopback address: a server that listens on a network is meant to be named.
    """

    def __init__(self, app: ASGIApp, listening: str) -> None:
        self._app = app
        self._checks = listening == "localhost" or bool((ip := _address(listening)) and ip.is_loopback)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._checks and scope["type"] == ScopeType.HTTP:
            given = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
            if not all(map(is_local_host, given)):
                return await _empty(send, 403)
            if scope["method"] == "OPTIONS":
                return await _empty(send, 204)
        await self._app(scope, receive, send)


def is_local_host(header: str) -> bool:
    """Whether a Host header names this machine, or a network where no foreign page can claim names."""
    match = re.fullmatch(r"\[(.*)\](?::\d*)?|([^:]*)(?::\d*)?|(.*)", header)
    host = next((group for group in match.groups() if group), "").lower() if match else header
    if ip := _address(host):
        allowed = ip.is_loopback or ip.is_unspecified or any(ip in net for net in _PRIVATE)
        return allowed or str(ip) in _interface_addresses()
    return host in ("", "localhost", socket.gethostname().lower()) or host.endswith(_LOCAL_SUFFIXES)


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _interface_addresses() -> set[str]:
    return {entry.address.partition("%")[0] for entries in psutil.net_if_addrs().values() for entry in entries}


def _headers(scope: Scope) -> dict[str, str]:
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}


def _encoded(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]


async def _empty(send: Send, status: int, headers: Mapping[str, str] = {}) -> None:
    length = {} if status == 204 else {"content-length": "0"}
    await send({"type": "http.response.start", "status": status, "headers": _encoded({**headers, **length})})
    await send({"type": "http.response.body", "body": b"", "more_body": False})
