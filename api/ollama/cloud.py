"""What Ollama does through its cloud, which this server never reaches: its state, web tools, recommended models."""

from __future__ import annotations

from typing import Any

from litestar import Response, get, post

from api.encode import JSONResponse
from api.ollama import wire
from api.ollama.routes import ERRORS
from api.service import Injected
from appliance.errors import Forbidden


@get("/api/status")
async def status(service: Injected) -> Response[wire.StatusResponse]:
    """Whether remote models can be reached, which is never, and where that was also asked for."""
    return JSONResponse(wire.StatusResponse(cloud=wire.CloudStatus(disabled=True, source=service.cloud_switch)))


@post("/api/experimental/web_search", status_code=200, responses=ERRORS)
async def web_search() -> Response[Any]:
    """Always refused: Ollama searches through its cloud."""
    raise Forbidden("ollama cloud is disabled: web search is unavailable")


@post("/api/experimental/web_fetch", status_code=200, responses=ERRORS)
async def web_fetch() -> Response[Any]:
    """Always refused: Ollama fetches through its cloud."""
    raise Forbidden("ollama cloud is disabled: web fetch is unavailable")


@get("/api/experimental/model-recommendations")
async def recommendations() -> Response[wire.RecommendationsResponse]:
    """No models: recommendations come from Ollama's cloud."""
    return JSONResponse(wire.RecommendationsResponse(recommendations=[]))
