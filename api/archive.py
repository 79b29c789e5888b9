"""Models as files, for machines without a network: /api/export and /api/import. Ours, not Ollama's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Annotated, Any

from litestar import Response, post
from litestar.params import FromQuery, JSONBody
from msgspec import Meta, Struct

from api import streaming
from api.encode import JSONResponse
from api.ollama.routes import ERRORS, UploadOperation
from api.requests import BodyRequest, GoJSON
from api.service import Injected
from appliance.stepping import finished, stepped

TAR = "application/x-tar"


class ExportRequest(Struct):
    """POST /api/export."""

    models: Annotated[list[str], Meta(description="Names of models")] = []


class ImportResponse(Struct):
    """The names of the models that were in the archive."""

    models: list[str]


@post("/api/export", status_code=200, media_type=TAR, dto=GoJSON[ExportRequest], responses=ERRORS)
async def export(data: JSONBody[ExportRequest], service: Injected) -> Response[bytes]:
    """Models as a tar of their manifests and blobs. Not part of Ollama's API."""
    packing = await asyncio.to_thread(service.caretaker.pack, data.models)
    steps: AsyncGenerator[Any, None] = stepped(packing.chunks())
    return streaming.raw(200, {"content-type": TAR, "content-length": str(packing.size)}, steps)


@post("/api/import", status_code=200, operation_class=UploadOperation, responses=ERRORS)
async def import_(
    request: BodyRequest, service: Injected, dry_run: FromQuery[bool] = False
) -> Response[ImportResponse]:
    """Install the models of a tar that /api/export made, once all of it is verified; with `?dry_run=true` only
    verify it. Not part of Ollama's API."""
    unpacking = service.caretaker.unpack(dry_run)
    try:
        async for chunk in request.stream():
            await finished(unpacking.write, chunk)
        names = await finished(unpacking.commit)
    finally:
        await finished(unpacking.abort)
    return JSONResponse(ImportResponse(list(names)), status_code=200)


ROUTES = (export, import_)
