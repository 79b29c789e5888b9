"""The HTTP client of the command line: the Ollama API as JSON objects, with its errors as exceptions."""

from __future__ import annotations

import ipaddress
import json
import os
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx

from appliance import __version__
from appliance.config import DEFAULT_PORT, Settings, clean, load_settings, parse_address
from appliance.errors import ApplianceError

MAX_LINE_BYTES = 8 * 2**20
CONNECT_TIMEOUT_S = 10.0


class Unreachable(ApplianceError):
    """No server answers."""

    def __init__(self) -> None:
        super().__init__("could not connect to appliance server, run 'appliance serve' to start it")


class RequestFailed(ApplianceError):
    """The server answered with an error, or its answer broke off. `status` is 200 for an error in a stream."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


def server_url(settings: Settings, environ: Mapping[str, str]) -> str:
    """Where the server is: OLLAMA_HOST with its scheme and path, else the settings' host and port.

    An address that means "every interface" becomes the loopback address.
    """
    address = parse_address(clean(environ.get("OLLAMA_HOST", "")))
    from_environment = settings.origin_of("host").startswith("environment")
    host = address.host if from_environment else settings.host
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        pass
    else:
        if ip.is_unspecified:
            ip = ipaddress.ip_address("127.0.0.1" if ip.version == 4 else "::1")
        host = f"[{ip}]" if ip.version == 6 else str(ip)
    port = address.port if from_environment and address.port is not None else settings.port or DEFAULT_PORT
    path = f"/{address.path}" if from_environment and address.path else ""
    return f"{address.scheme if from_environment else 'http'}://{host}:{port}{path}"


def connect() -> Client:
    """A client for the server that config file and environment name; nothing is sent yet."""
    settings = load_settings({}, os.environ)
    return Client(server_url(settings, os.environ))


class Client:
    """Requests to one server. Use as a context manager; every method may raise Unreachable or RequestFailed.

    Proxies of the environment are not used: the server is on this machine or on its LAN. There is no read
    timeout, since a model may think for as long as it needs.
    """

    def __init__(self, base_url: str, transport: httpx.BaseTransport | None = None) -> None:
        try:
            self._http = httpx.Client(
                base_url=base_url,
                timeout=httpx.Timeout(None, connect=CONNECT_TIMEOUT_S),
                transport=transport,
                trust_env=False,
                headers={"User-Agent": f"appliance/{__version__}"},
            )
        except httpx.InvalidURL as error:
            raise ApplianceError(f"invalid server address {base_url}: {error}") from error

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """One request and its JSON object; an empty answer is {}."""
        with _named_errors():
            response = self._http.request(method, path, json=body)
            _raise_for(response)
            answer: dict[str, Any] = json.loads(response.content or b"{}")
        return answer

    def stream(self, path: str, body: Mapping[str, Any]) -> Generator[dict[str, Any], None, None]:
        """POST and yield each line of the answer. Closing the iterator ends the request on the server too."""
        with _named_errors(), self._http.stream("POST", path, json=body) as response:
            if response.is_error:
                response.read()
                _raise_for(response)
            for line in _lines(response.iter_bytes()):
                event = json.loads(line)
                if error := event.get("error"):
                    raise RequestFailed(str(error), response.status_code)
                yield event

    def has_blob(self, digest: str) -> bool:
        """Whether the server holds this blob already."""
        with _named_errors():
            return self._http.head(f"/api/blobs/{digest}").is_success

    def upload(self, digest: str, chunks: Iterator[bytes], size: int) -> None:
        """Send a blob of `size` bytes."""
        with _named_errors():
            response = self._http.post(f"/api/blobs/{digest}", content=chunks, headers={"Content-Length": str(size)})
        _raise_for(response)


@contextmanager
def _named_errors() -> Iterator[None]:
    try:
        yield
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        raise Unreachable from error
    except (httpx.TransportError, ValueError) as error:
        raise RequestFailed(f"the server's answer broke off: {error or type(error).__name__}", 200) from error


def _raise_for(response: httpx.Response) -> None:
    if response.is_success:
        return
    try:
        message = str(json.loads(response.content)["error"])
    except (ValueError, KeyError, TypeError):
        message = response.text.strip() or f"{response.status_code} {response.reason_phrase}"
    raise RequestFailed(message, response.status_code)


def _lines(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Split at LF only: JSON strings may hold U+2028 and other marks that text splitting takes for line ends."""
    pending = b""
    for chunk in chunks:
        *whole, pending = (pending + chunk).split(b"\n")
        if len(pending) > MAX_LINE_BYTES:
            raise ValueError("line too long")
        yield from (line for line in whole if line.strip())
    if pending.strip():
        yield pending
