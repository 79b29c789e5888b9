"""One repository of a registry: its manifests and its blobs."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping
from dataclasses import dataclass

import httpx

from appliance.errors import InvalidName, InvalidRequest, RegistryError
from appliance.registry.auth import Authority
from appliance.registry.download import Interrupted
from appliance.registry.transport import Answer, Place, Transport, complaint, read
from appliance.store.manifests import MANIFEST_TYPE, MAX_MANIFEST_BYTES
from appliance.store.names import ModelName

OCI_MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Statuses after which the same request may succeed."""

Content = Callable[[], bytes | AsyncIterable[bytes]]
"""Makes a request's body, once more if it has to be sent again."""


@dataclass(frozen=True, slots=True)
class Remote:
    """A model's place in a registry."""

    base: Place
    name: ModelName

    @property
    def host(self) -> str:
        """The registry's host, with its port."""
        return self.name.host

    def at(self, path: str, **query: str) -> Place:
        """A place in the model's repository."""
        return self.base.at(f"/v2/{self.name.namespace}/{self.name.model}/{path}", **query)


def remote(reference: str, name: ModelName, insecure: bool) -> Remote:
    """Where a model that the user calls `reference` is; `name` is what that comes to.

    Raises InvalidRequest for http where `insecure` does not allow it. With it, http is what is spoken.
    """
    scheme, marker, _ = reference.partition("://")
    if marker and scheme.lower() not in ("http", "https"):
        raise InvalidRequest(f"the protocol {scheme} is not supported: leave it out, or write https")
    if marker and scheme.lower() == "http" and not insecure:
        raise InvalidRequest("insecure protocol http")
    try:
        url = httpx.URL(f"{'http' if insecure else 'https'}://{name.host}")
    except httpx.InvalidURL as error:
        raise InvalidName("invalid model name") from error
    return Remote(Place(url), name)


class Registry:
    """A repository as this server may see it. Use from one event loop."""

    def __init__(self, transport: Transport, authority: Authority, remote: Remote) -> None:
        self.transport = transport
        self.remote = remote
        self._authority = authority
        self._authorization = ""

    @contextlib.asynccontextmanager
    async def request(
        self, method: str, place: Place, headers: Mapping[str, str] = {}, content: Content | None = None
    ) -> AsyncIterator[Answer]:
        """Send a request, and again with a token if it is refused for want of one.

        Raises RegistryError where that does not help either, httpx's errors.
        """
        for again in (False, True):
            known = self._authorization
            body = content() if content else None
            sending = self.transport.stream(method, place, headers=headers, authorization=known, content=body)
            async with sending as answer:
                response = answer.response
                if response.status_code != 401 or not answer.place.named:
                    yield answer
                    return
                if again:
                    raise RegistryError("unauthorized: access denied")
                challenge = response.headers.get("www-authenticate", "")
            if self._authorization == known:  # another request may have got a token meanwhile
                self._authorization = await self._authority.answer(self.transport, self.remote.base, challenge)

    async def manifest(self) -> bytes:
        """The manifest, byte for byte. Raises RegistryError, httpx's errors."""
        accept = {"Accept": f"{MANIFEST_TYPE}, {OCI_MANIFEST_TYPE}"}
        place = self.remote.at(f"manifests/{self.remote.name.tag}")
        async with self.request("GET", place, accept) as (response, _):
            if response.status_code == 404:
                raise RegistryError("file does not exist")
            if not response.is_success:
                raise RegistryError(await complaint(response))
            return await read(response, MAX_MANIFEST_BYTES)

    async def put_manifest(self, raw: bytes, media_type: str) -> None:
        """Store a manifest whose blobs are there. Raises RegistryError, httpx's errors."""
        place = self.remote.at(f"manifests/{self.remote.name.tag}")
        async with self.request("PUT", place, {"Content-Type": media_type}, lambda: raw) as (response, _):
            if not response.is_success:
                raise RegistryError(await complaint(response))

    async def has_blob(self, digest: str) -> bool:
        """Whether the registry has a blob. Raises RegistryError, httpx's errors."""
        async with self.request("HEAD", self.remote.at(f"blobs/{digest}")) as (response, _):
            if response.status_code != 404 and not response.is_success:
                raise RegistryError(await complaint(response))
            return response.is_success


class RegistryBlob:
    """A blob of a repository, a Source. Where the registry sends its readers elsewhere, that is remembered."""

    def __init__(self, registry: Registry, digest: str) -> None:
        self._registry = registry
        self._digest = digest
        self._elsewhere: Place | None = None

    @contextlib.asynccontextmanager
    async def open(self, start: int, end: int) -> AsyncIterator[httpx.Response]:
        """See Source."""
        wanted = {"Range": f"bytes={start}-{end - 1}"}
        if elsewhere := self._elsewhere:
            async with self._registry.transport.stream("GET", elsewhere, headers=wanted) as (response, _):
                if response.is_success:
                    yield response
                    return
            self._elsewhere = None  # it has expired
        place = self._registry.remote.at(f"blobs/{self._digest}")
        async with self._registry.request("GET", place, wanted) as (response, found):
            await check(response)
            if not found.named:
                self._elsewhere = found
            yield response


async def check(response: httpx.Response) -> None:
    """Raise Interrupted for a failure that may pass, RegistryError for another one."""
    if response.status_code in PASSING:
        raise Interrupted(await complaint(response))
    if not response.is_success:
        raise RegistryError(await complaint(response))
