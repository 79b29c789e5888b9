"""POST /api/embed, and its predecessor /api/embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
from litestar import Request, Response, post
from litestar.params import JSONBody

from api import streaming
from api.encode import JSONResponse
from api.errors import ErrorResponse, error_response
from api.floats import vector
from api.ollama import vector_wire as wire
from api.ollama.routes import ERRORS
from api.requests import GoJSON
from api.service import Injected
from appliance import core
from appliance.errors import ApplianceError, InvalidRequest, ModelNotFound, NotEmbedded
from appliance.store.names import parse_reference

RUNNER_FAULTS: Mapping[type[ApplianceError], int] = {NotEmbedded: 500}
"""/api/embeddings blames the server for whatever its runner says."""


def on_error(_: Request[Any, Any, Any], error: ApplianceError) -> Response[ErrorResponse]:
    """Exception handler of /api/embeddings."""
    return error_response(error, overrides=RUNNER_FAULTS)


@post("/api/embed", status_code=200, dto=GoJSON[wire.EmbedRequest], responses=ERRORS)
async def embed(data: JSONBody[wire.EmbedRequest], service: Injected) -> Response[wire.EmbedResponse]:
    """The embeddings of one text or of many; without one, load the model."""
    if not data.model.strip():
        raise ModelNotFound(f"model '{data.model}' not found")
    parse_reference(data.model)  # a name that cannot be is reported before an input that cannot be
    request = core.EmbedRequest(
        model=data.model,
        inputs=texts(data.input),
        truncate=data.truncate is not False,
        dimensions=data.dimensions,
        options=data.options,
        keep_alive_s=cast("float | None", data.keep_alive),
    )

    async def answer() -> Response[wire.EmbedResponse]:
        made = await service.embed(request)
        vectors = [vector(each) for each in made.vectors]
        content = wire.EmbedResponse(
            model=data.model,
            embeddings=cast("list[list[float]]", vectors),  # JSON already
            total_duration=made.total_ns,
            load_duration=made.load_ns,
            prompt_eval_count=made.prompt_tokens,
        )
        return JSONResponse(content, status_code=200)

    return streaming.whole(answer)


@post(
    "/api/embeddings",
    status_code=200,
    dto=GoJSON[wire.EmbeddingRequest],
    responses=ERRORS,
    exception_handlers={ApplianceError: on_error},
)
async def embeddings(data: JSONBody[wire.EmbeddingRequest], service: Injected) -> Response[wire.EmbeddingResponse]:
    """The embedding of one text, as the model made it; `/api/embed` is its successor."""
    if not data.model.strip():
        raise InvalidRequest("model is required")
    request = core.EmbedRequest(
        model=data.model,
        inputs=(data.prompt,) if data.prompt else (),
        truncate=False,
        normalize=False,
        options=data.options,
        keep_alive_s=cast("float | None", data.keep_alive),
    )

    async def answer() -> Response[wire.EmbeddingResponse]:
        made = await service.embed(request)
        row = made.vectors[0] if len(made.vectors) else np.zeros(0, np.float32)
        content = wire.EmbeddingResponse(cast("list[float]", vector(row.astype(np.float64))))
        return JSONResponse(content, status_code=200)

    return streaming.whole(answer)


def texts(given: Any) -> tuple[str, ...]:
    """The texts of `input`: null and "" are none. Raises InvalidRequest."""
    if given is None or given == "":
        return ()
    if isinstance(given, str):
        return (given,)
    if isinstance(given, list) and all(isinstance(each, str) for each in given):
        return tuple(given)
    raise InvalidRequest("invalid input type")
