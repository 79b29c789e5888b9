"""The Hugging Face Hub: what a repository holds, and its files.

Spoken over the Hub's HTTP API: `/api/models/<repository>/revision/<revision>?blobs=true` lists the files of a commit,
`/<repository>/resolve/<commit>/<path>` gives one, mostly by a redirect to other hosts, which never see the token.
Large files have a SHA-256 there, small ones Git's SHA-1: every file is held against what it has.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx

from appliance.errors import RegistryError
from appliance.registry.client import check
from appliance.registry.transport import Answer, Place, Transport, complaint, read
from appliance.store.names import ModelName

REVISION = "main"
MAX_LISTING_BYTES = 32 << 20
MAX_SMALL_BYTES = 64 << 20
"""Of a file in Git itself; the Hub wants larger ones than 10 MB elsewhere."""


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file of a commit; `sha256` is "" for one in Git itself, whose SHA-1 as a Git blob is `git_sha1`."""

    path: str
    size: int
    sha256: str
    git_sha1: str


@dataclass(frozen=True, slots=True)
class Commit:
    """A state of a repository."""

    sha: str
    files: tuple[HubFile, ...]


class Hub:
    """A repository of the Hub as this server may see it. `token` is a user's, "" for anybody."""

    def __init__(self, transport: Transport, endpoint: str, token: str, name: ModelName) -> None:
        self._transport = transport
        self._place = Place(httpx.URL(endpoint))
        self._root = self._place.url.path.rstrip("/")
        self.host = self._place.url.netloc.decode()
        self._authorization = f"Bearer {token}" if token else ""
        self._repository = f"{name.namespace}/{name.model}"

    async def commit(self) -> Commit:
        """The newest state. Raises RegistryError, httpx's errors."""
        place = self._place.at(f"{self._root}/api/models/{self._repository}/revision/{REVISION}", blobs="true")
        async with self._get(place) as (response, _):
            if response.status_code == 404:
                raise RegistryError(self._refusal())
            await succeeded(response)
            body = await read(response, MAX_LISTING_BYTES)
        try:
            found = json.loads(body)
            return Commit(str(found["sha"]), tuple(map(_file, found["siblings"])))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise RegistryError(f"{self.host} does not list files as the Hub does") from error

    async def small(self, commit: Commit, file: HubFile) -> bytes:
        """A file that Git has itself. Raises RegistryError, httpx's errors."""
        async with self._get(self._at(commit, file)) as (response, _):
            await succeeded(response)
            data = await read(response, MAX_SMALL_BYTES)
        if file.git_sha1 != hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest():
            raise RegistryError(f"{file.path} arrived damaged from {self.host}: its bytes are not those of the commit")
        return data

    @contextlib.asynccontextmanager
    async def range(self, commit: Commit, file: HubFile, start: int, end: int) -> AsyncIterator[httpx.Response]:
        """The bytes of a file from `start` to `end`; see Source."""
        async with self._get(self._at(commit, file), {"Range": f"bytes={start}-{end - 1}"}) as (response, _):
            await check(response)
            yield response

    def _at(self, commit: Commit, file: HubFile) -> Place:
        path = f"{self._repository}/resolve/{quote(commit.sha, safe='')}/{quote(file.path)}"
        return self._place.at(f"{self._root}/{path}")

    @contextlib.asynccontextmanager
    async def _get(self, place: Place, headers: Mapping[str, str] = {}) -> AsyncIterator[Answer]:
        sending = self._transport.stream("GET", place, headers=headers, authorization=self._authorization)
        async with sending as answer:
            if answer.response.status_code in (401, 403) and answer.place.named:
                raise RegistryError(f"{self._refusal()} ({await complaint(answer.response)})")
            yield answer

    def _refusal(self) -> str:
        rest = (
            "or the token of HF_TOKEN may not read it"
            if self._authorization
            else "or it is private or gated: then accept its terms there, and give the server a token in HF_TOKEN"
        )
        return f"{self.host} has no model {self._repository}, {rest}"


class HubBlob:
    """A large file of a commit, a Source."""

    def __init__(self, hub: Hub, commit: Commit, file: HubFile) -> None:
        self._hub, self._commit, self._file = hub, commit, file

    def open(self, start: int, end: int) -> contextlib.AbstractAsyncContextManager[httpx.Response]:
        """See Source."""
        return self._hub.range(self._commit, self._file, start, end)


async def succeeded(response: httpx.Response) -> None:
    """Raise RegistryError for a refusal."""
    if not response.is_success:
        raise RegistryError(f"{response.url.host} answered {await complaint(response)}")


def _file(found: Mapping[str, Any]) -> HubFile:
    large = found.get("lfs") or {}
    size = large.get("size") or found.get("size") or 0
    return HubFile(str(found["rfilename"]), int(size), str(large.get("sha256", "")), str(found.get("blobId", "")))
