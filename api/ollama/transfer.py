"""Models from registries and to them: POST /api/pull, POST /api/push."""

from __future__ import annotations

from typing import Any

from litestar import Request, Response, post
from litestar.params import JSONBody

from api.encode import JSON_PLAIN
from api.errors import ErrorResponse, error_response
from api.ollama import wire
from api.ollama.progress import answer
from api.ollama.routes import ERRORS, StreamedOperation
from api.requests import GoJSON
from api.service import Injected
from appliance import core
from appliance.errors import ApplianceError


def on_error(_: Request[Any, Any, Any], error: ApplianceError) -> Response[ErrorResponse]:
    """Exception handler of these routes."""
    return error_response(error, media_type=JSON_PLAIN)


@post(
    "/api/pull",
    status_code=200,
    dto=GoJSON[wire.PullRequest],
    operation_class=StreamedOperation,
    responses=ERRORS,
    exception_handlers={ApplianceError: on_error},
)
async def pull(data: JSONBody[wire.PullRequest], service: Injected) -> Response[wire.ProgressResponse]:
    """Fetch a model from the registry that its name says, Ollama's where it says none."""
    return answer(service.pull(request(data)), data.stream)


@post(
    "/api/push",
    status_code=200,
    dto=GoJSON[wire.PushRequest],
    operation_class=StreamedOperation,
    responses=ERRORS,
    exception_handlers={ApplianceError: on_error},
)
async def push(data: JSONBody[wire.PushRequest], service: Injected) -> Response[wire.ProgressResponse]:
    """Send a model to the registry that its name says."""
    return answer(service.push(request(data)), data.stream)


def request(data: wire.PullRequest) -> core.TransferRequest:
    """The request in core nouns."""
    return core.TransferRequest(data.model or data.name, data.insecure)
