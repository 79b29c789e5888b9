"""The HTTP client of the command line: the Ollama API as JSON objects, with its errors as exceptions."""

from __future__ import annotations

import ipaddress
import json
import os
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from appliance import __version__
from appliance.config import Settings, load_settings
from appliance.errors import ApplianceError
from appliance.setting_values import DEFAULT_PORT, clean, parse_address

if TYPE_CHECKING:
    import httpx  # imported where a client is made: help and completion of options need none

MAX_LINE_BYTES = 8 * 2**20
CONNECT_TIMEOUT_S = 10.0
UNITS = (Path("/etc/systemd/system/appliance.service"), Path("/usr/lib/systemd/system/appliance.service"))
_QUOTED_CHARACTERS = 80


class Unreachable(ApplianceError):
    """No server answers at `url`; `reason` is what the network says."""

    def __init__(self, url: str, reason: str) -> None:
        if is_here(url) and "refused" in reason:
            start = "systemctl start appliance" if any(map(Path.exists, UNITS)) else "appliance serve"
            super().__init__(f"could not connect to appliance server at {url}, run '{start}' to start it")
        else:
            super().__init__(f"could not connect to appliance server at {url}: {reason}; OLLAMA_HOST says where it is")


class RequestFailed(ApplianceError):
    """The server answered with an error, or its answer broke off. `status` is 200 for an error in a stream."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Stranger(RequestFailed):
    """What answers is no server with the Ollama API."""

    def __init__(self, url: str, said: str, status: int) -> None:
        super().__init__(f"what answers at {url} is no appliance server: {said}", status)


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


def connect(timeout_s: float | None = None) -> Client:
    """A client for the server that config file and environment name; nothing is sent yet."""
    settings = load_settings({}, os.environ)
    return Client(server_url(settings, os.environ), timeout_s)


class Client:
    """Requests to one server. Use as a context manager; every method may raise Unreachable or RequestFailed.

    Proxies of the environment are not used: the server is on this machine or on its LAN. Without `timeout_s` there is
    no read timeout, since a model may think for as long as it needs. Threads may share a client.
    """

    def __init__(self, url: str, timeout_s: float | None = None) -> None:
        import httpx

        self.url = url
        try:
            self._http = httpx.Client(
                base_url=url,
                timeout=httpx.Timeout(timeout_s, connect=timeout_s or CONNECT_TIMEOUT_S),
                trust_env=False,
                headers={"User-Agent": f"appliance/{__version__}"},
            )
        except httpx.InvalidURL as error:
            raise ApplianceError(f"invalid server address {url}: {error}") from error

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """One request and its JSON object; an empty answer is {}."""
        with self._request(method, path, json=body) as response:
            response.read()
            if not response.content:
                return {}
            answer = _json_object(response.content)
            if answer is None:
                raise self._stranger(response)
        return answer

    def stream(self, path: str, body: Mapping[str, Any]) -> Generator[dict[str, Any], None, None]:
        """POST and yield each line of the answer. Closing the iterator ends the request on the server too."""
        with self._request("POST", path, json=body) as response:
            for line in _lines(response.iter_bytes()):
                event = _json_object(line)
                if event is None:
                    raise ValueError("a line that is no JSON object")
                if error := event.get("error"):
                    raise RequestFailed(str(error), response.status_code)
                yield event

    def has_blob(self, digest: str) -> bool:
        """Whether the server holds this blob already."""
        try:
            with self._request("HEAD", f"/api/blobs/{digest}"):
                return True
        except RequestFailed as error:
            if error.status == 404:
                return False
            raise

    def upload(self, digest: str, chunks: Iterator[bytes], size: int) -> None:
        """Send a blob of `size` bytes."""
        headers = {"Content-Length": str(size)}
        with self._request("POST", f"/api/blobs/{digest}", content=chunks, headers=headers):
            pass

    @contextmanager
    def download(self, path: str, body: Mapping[str, Any]) -> Iterator[tuple[int, Iterator[bytes]]]:
        """POST, and the answer's size and its bytes as they come."""
        with self._request("POST", path, json=body) as response:
            yield int(response.headers["content-length"]), response.iter_raw()

    def send(self, path: str, chunks: Iterator[bytes], size: int | None) -> dict[str, Any]:
        """POST bytes, `size` of them if that is known, and the JSON object that comes back."""
        headers = {"Content-Length": str(size)} if size is not None else {}
        with self._request("POST", path, content=chunks, headers=headers) as response:
            answer = _json_object(response.read())
            if answer is None:
                raise self._stranger(response)
        return answer

    @contextmanager
    def _request(self, method: str, path: str, **more: Any) -> Iterator[httpx.Response]:
        """The answer to a request, unread and no error."""
        import httpx

        answered = False
        try:
            with self._http.stream(method, path, **more) as response:
                answered = True
                if not response.is_success:
                    response.read()
                    raise self._failure(response)
                yield response
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise Unreachable(self.url, str(error) or "no answer") from error
        except httpx.RemoteProtocolError as error:
            if answered:
                raise _broken_off(error) from error
            if "disconnected" in str(error):
                raise RequestFailed(f"{self.url} closed the connection without an answer", 200) from error
            raise Stranger(self.url, f"it does not speak HTTP ({error})", 200) from error
        except (httpx.TransportError, ValueError) as error:
            raise _broken_off(error) from error

    def _failure(self, response: httpx.Response) -> RequestFailed:
        body = _json_object(response.content)
        if body and isinstance(body.get("error"), str):
            return RequestFailed(body["error"], response.status_code)
        said = response.text.strip()
        if response.request.method == "HEAD" or said.startswith("404 page not found") or response.is_server_error:
            return RequestFailed(said or f"{response.status_code} {response.reason_phrase}", response.status_code)
        return self._stranger(response)

    def _stranger(self, response: httpx.Response) -> Stranger:
        start = " ".join(response.text.split())[:_QUOTED_CHARACTERS]
        asked = f"{response.request.method} {response.request.url.path}"
        return Stranger(self.url, f"{asked} got {response.status_code} and {start!r}", response.status_code)


def _broken_off(error: Exception) -> RequestFailed:
    return RequestFailed(f"the server's answer broke off: {error or type(error).__name__}", 200)


def is_here(url: str) -> bool:
    """Whether a URL names this machine by a loopback address."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _json_object(content: bytes) -> dict[str, Any] | None:
    try:
        answer = json.loads(content)
    except ValueError:
        return None
    return answer if isinstance(answer, dict) else None


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
