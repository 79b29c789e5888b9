"""Files on their way into models: /api/blobs/{digest}."""

from __future__ import annotations

import re

from litestar import MediaType, Response, head, post
from litestar.params import FromPath

from api.ollama.routes import ERRORS, UploadOperation
from api.requests import BodyRequest
from api.service import Injected
from appliance.errors import BlobNotFound, InvalidRequest

DIGEST = re.compile(r"sha256[:-][0-9a-fA-F]{64}")


@head("/api/blobs/{digest:str}", status_code=200)
async def probe(digest: FromPath[str], service: Injected) -> None:
    """Whether the blob is in the store."""
    if not await service.has_blob(checked(digest)):
        raise BlobNotFound(f'blob "{digest}" not found')


@post("/api/blobs/{digest:str}", status_code=201, operation_class=UploadOperation, responses=ERRORS)
async def upload(digest: FromPath[str], request: BodyRequest, service: Injected) -> Response[None]:
    """Store the body, of any length, under its digest. 200 and unread when it is there already."""
    announced = request.headers.get("content-length", "")
    length = int(announced) if announced.isdecimal() else None
    created = await service.put_blob(checked(digest), request.stream(), length)
    return Response(None, status_code=201 if created else 200, media_type=MediaType.TEXT)


def checked(digest: str) -> str:
    """A digest of the right form; raises InvalidRequest."""
    if DIGEST.fullmatch(digest):
        return digest
    raise InvalidRequest("invalid digest format")
