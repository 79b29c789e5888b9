"""Requests to registries and their redirects.

A redirect is followed a few times at most, never from https to http, never from the internet to an address of the LAN,
and what identifies this server stays with the host that the user named.
"""

from __future__ import annotations

import contextlib
import platform
from collections.abc import AsyncIterable, AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import httpx

from appliance import __version__
from appliance.errors import Forbidden, RegistryError
from appliance.registry.network import Network

MAX_REDIRECTS = 5
MAX_TEXT_BYTES = 8 << 10
TIMEOUT_S = 30.0  # without a byte
CONNECT_TIMEOUT_S = 10.0
OFFLINE = "this server is offline (setting offline, variable APPLIANCE_OFFLINE): it neither pulls nor pushes"


def user_agent(api_version: str) -> str:
    """What this server calls itself. Ollama's registry refuses clients that it takes for old ones."""
    return f"ollama/{api_version} ({platform.machine()} {platform.system().lower()}) edge-appliance/{__version__}"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a request goes. `named`: the user named this host, so it may be told who asks. `public_only`: a server on
    the internet named it, so it must be there too."""

    url: httpx.URL
    named: bool = True
    public_only: bool = False

    def at(self, path: str, **query: str) -> Place:
        """Another URL of the same host."""
        return Place(self.url.join(path).copy_merge_params(query), self.named, self.public_only)


class Answer(NamedTuple):
    """A response whose body has not been read, and the place it came from after all redirects."""

    response: httpx.Response
    place: Place


class Transport:
    """HTTP with the rules of this module. Use from one event loop, and close it."""

    def __init__(self, network: Network, user_agent: str, offline: bool = False) -> None:
        self._network = network
        self._offline = offline
        self._http = httpx.AsyncClient(
            transport=network,
            trust_env=False,
            timeout=httpx.Timeout(TIMEOUT_S, connect=CONNECT_TIMEOUT_S, pool=None),
            headers={"User-Agent": user_agent, "Accept-Encoding": "identity"},
        )

    def check_online(self) -> None:
        """Raise Forbidden if this server is to stay offline."""
        if self._offline:
            raise Forbidden(OFFLINE)

    @contextlib.asynccontextmanager
    async def stream(
        self,
        method: str,
        place: Place,
        *,
        headers: Mapping[str, str] = {},
        authorization: str = "",
        content: bytes | AsyncIterable[bytes] | None = None,
    ) -> AsyncIterator[Answer]:
        """Send a request; GET and HEAD follow redirects, other methods leave them to the caller and `follow`.

        `authorization` reaches only a host that the user named. Raises httpx's errors, RegistryError for a redirect
        that is not followed, Forbidden when offline.
        """
        self.check_online()
        for _ in range(MAX_REDIRECTS + 1):
            proof = {"Authorization": authorization} if authorization and place.named else {}
            request = self._http.build_request(
                method,
                place.url,
                headers={**headers, **proof},
                content=content,
                extensions={"public_only": place.public_only},
            )
            response = await self._http.send(request, stream=True)
            try:
                if not response.has_redirect_location or method not in ("GET", "HEAD"):
                    yield Answer(response, place)
                    return
                place = self.follow(place, response)
            finally:
                await response.aclose()
        raise RegistryError(f"more than {MAX_REDIRECTS} redirects, the last to {place.url.host}")

    def follow(self, place: Place, response: httpx.Response, header: str = "Location") -> Place:
        """The place that a response points to; raises RegistryError if it may not be gone to."""
        target = response.headers.get(header, "")
        try:
            url = place.url.join(target)
        except httpx.InvalidURL as error:
            raise RegistryError(f"{place.url.host} redirects to an address that is none: {error}") from error
        if not target or url.scheme not in ("http", "https") or not url.host:
            raise RegistryError(f"{place.url.host} redirects to nowhere")
        if place.url.scheme == "https" and url.scheme == "http":
            raise RegistryError(f"{place.url.host} redirects from https to http, to {url.host}; it is not followed")
        if _origin(url) == _origin(place.url):
            return Place(url, place.named, place.public_only)
        return Place(url, named=False, public_only=place.public_only or self._network.is_public(place.url))

    async def aclose(self) -> None:
        """Close every connection."""
        await self._http.aclose()


async def read(response: httpx.Response, limit: int) -> bytes:
    """The body, at most `limit` bytes; raises RegistryError if it is longer."""
    body = bytearray()
    async for part in response.aiter_raw():
        body += part
        if len(body) > limit:
            raise RegistryError(f"{response.url.host} answered with more than {limit:,} bytes")
    return bytes(body)


async def complaint(response: httpx.Response) -> str:
    """What a refusal says: its status and the beginning of its body."""
    body = bytearray()
    with contextlib.suppress(httpx.TransportError):
        async for part in response.aiter_raw():
            body += part
            if len(body) > MAX_TEXT_BYTES:
                break
    return f"{response.status_code}: {body[:MAX_TEXT_BYTES].decode(errors='replace').strip()}"


@contextlib.contextmanager
def named_errors(host: str) -> Iterator[None]:
    """Turn the errors of the network into RegistryError, which names the host."""
    try:
        yield
    except httpx.HTTPError as error:
        raise RegistryError(f"cannot reach {host}: {reason(error)}") from error


def reason(error: Exception) -> str:
    """An error's text, or what kind it is of where it has none."""
    if isinstance(error, httpx.TimeoutException):
        return "it does not answer"
    return str(error) or type(error).__name__


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port
