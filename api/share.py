"""The reading half of an OCI registry under /v2/, where the setting `share` is on: others pull from this machine."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Generator
from pathlib import Path
from typing import Any

from litestar import HttpMethod, Request, Response, get, route
from litestar.params import FromPath
from msgspec import Struct

from api import streaming
from api.encode import JSONResponse
from api.errors import status_of
from api.service import Injected
from appliance.errors import ApplianceError, BlobNotFound, ModelFileError, ModelNotFound
from appliance.stepping import stepped

VERSION = {"docker-distribution-api-version": "registry/2.0"}
OCTETS = "application/octet-stream"
CHUNK_BYTES = 1 << 20
CODES = {ModelNotFound: "MANIFEST_UNKNOWN", BlobNotFound: "BLOB_UNKNOWN"}

Asked = Request[Any, Any, Any]

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_RANGE = re.compile(r"bytes=([0-9]{0,19})-([0-9]{0,19})")


class RegistryError(Struct):
    """What is wrong, and its code in the specification of registries."""

    code: str
    message: str


class RegistryErrors(Struct):
    """The body of every error here."""

    errors: list[RegistryError]


class Tags(Struct):
    """A repository's tags."""

    name: str
    tags: list[str]


def on_error(_: Request[Any, Any, Any], error: ApplianceError) -> Response[RegistryErrors]:
    """Exception handler of these routes."""
    code = CODES.get(type(error), "UNKNOWN")
    body = RegistryErrors([RegistryError(code, str(error))])
    return JSONResponse(body, status_code=status_of(error), headers=VERSION)


HANDLERS: Any = {ApplianceError: on_error}


@get("/v2", exception_handlers=HANDLERS)
async def ping() -> Response[dict[str, str]]:
    """That this is a registry, where `share` is on."""
    return JSONResponse({}, headers=VERSION)


@get("/v2/{namespace:str}/{model:str}/tags/list", exception_handlers=HANDLERS)
async def tags(namespace: FromPath[str], model: FromPath[str], service: Injected) -> Response[Tags]:
    """The tags of a model, where `share` is on."""
    found = await asyncio.to_thread(service.library.tags, namespace, model)
    return JSONResponse(Tags(f"{namespace}/{model}", list(found)), headers=VERSION)


@route(
    "/v2/{namespace:str}/{model:str}/manifests/{reference:str}",
    http_method=[HttpMethod.GET, HttpMethod.HEAD],
    exception_handlers=HANDLERS,
)
async def manifest(
    namespace: FromPath[str], model: FromPath[str], reference: FromPath[str], request: Asked, service: Injected
) -> Response[bytes]:
    """The manifest of a model that is whole, by tag or digest, where `share` is on."""
    found = await asyncio.to_thread(service.library.manifest, namespace, model, reference)
    headers = {"content-type": found.media_type, "content-length": str(len(found.raw)), **identity(found.digest)}
    return streaming.raw(200, headers, once(found.raw), head=request.method == "HEAD")


@route(
    "/v2/{namespace:str}/{model:str}/blobs/{digest:str}",
    http_method=[HttpMethod.GET, HttpMethod.HEAD],
    exception_handlers=HANDLERS,
)
async def blob(
    namespace: FromPath[str], model: FromPath[str], digest: FromPath[str], request: Asked, service: Injected
) -> Response[bytes]:
    """A blob of a model, or a range of its bytes, where `share` is on."""
    if not _DIGEST.fullmatch(digest):
        raise BlobNotFound(f"{digest[:100]!r} is not the digest of a blob")
    path = await asyncio.to_thread(service.library.blob, namespace, model, digest)
    size = path.stat().st_size
    headers = {"content-type": OCTETS, "accept-ranges": "bytes", **identity(digest)}
    head = request.method == "HEAD"
    wanted = None if head else span(request.headers.get("range", ""), size)
    if wanted is None:
        headers["content-length"] = str(size)
        return streaming.raw(200, headers, stepped(read(path, range(size))), head=head)
    if not wanted:
        headers |= {"content-length": "0", "content-range": f"bytes */{size}"}
        return streaming.raw(416, headers, once(b""))
    headers |= {
        "content-length": str(len(wanted)),
        "content-range": f"bytes {wanted.start}-{wanted.stop - 1}/{size}",
    }
    return streaming.raw(206, headers, stepped(read(path, wanted)))


def span(header: str, size: int) -> range | None:
    """The bytes that a Range header asks for, empty if there are none there.

    None for all of them: without a header, with one that is malformed, and with one that asks for several ranges.
    """
    match = _RANGE.fullmatch(header)
    first, last = match.groups() if match else ("", "")
    if not first:
        return range(max(size - int(last), 0), size) if last else None
    if last and int(last) < int(first):
        return None
    return range(int(first), min(int(last) + 1, size) if last else size)


def read(path: Path, wanted: range) -> Generator[bytes, None, None]:
    """A range of a file's bytes, piece by piece."""
    with path.open("rb") as file:
        file.seek(wanted.start)
        left = len(wanted)
        while left and (piece := file.read(min(CHUNK_BYTES, left))):
            yield piece
            left -= len(piece)
    if left:
        raise ModelFileError(f"{path.name} has become shorter")


async def once(data: bytes) -> AsyncGenerator[bytes, None]:
    """A body of one piece."""
    yield data


def identity(digest: str) -> dict[str, str]:
    """Headers that name what is sent by its digest."""
    return {"docker-content-digest": digest, "etag": f'"{digest}"', **VERSION}


ROUTES = (ping, tags, manifest, blob)
