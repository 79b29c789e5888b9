"""The server itself: / and /api/version."""

from __future__ import annotations

from litestar import MediaType, Response
from litestar.handlers import route

from api.encode import JSONResponse
from api.ollama import wire
from api.service import Injected


@route("/", http_method=["GET", "HEAD"], status_code=200, media_type=MediaType.TEXT)
async def root() -> Response[str]:
    """What clients knock at."""
    return Response("Ollama is running", media_type=MediaType.TEXT)


@route("/api/version", http_method=["GET", "HEAD"], status_code=200)
async def version(service: Injected) -> Response[wire.VersionResponse]:
    """The version of the Ollama API that is spoken."""
    return JSONResponse(wire.VersionResponse(version=service.version))
