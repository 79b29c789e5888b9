"""POST /api/create."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from litestar import Request, Response, post
from litestar.params import JSONBody

from api.encode import JSON_PLAIN
from api.errors import ErrorResponse, error_response
from api.ollama import wire
from api.ollama.inference import message
from api.ollama.progress import answer
from api.ollama.routes import ERRORS, StreamedOperation
from api.requests import GoJSON
from api.service import Injected
from appliance import core
from appliance.errors import (
    ApplianceError,
    Forbidden,
    InvalidRequest,
    InvalidTemplate,
    ModelFileError,
    NotQuantized,
    Unsupported,
)

CLIENT_FAULTS: Mapping[type[ApplianceError], int] = {ModelFileError: 400, InvalidTemplate: 400, NotQuantized: 500}
"""Here file and template are the client's own; for quantisation Ollama has a status of its own."""


def on_error(_: Request[Any, Any, Any], error: ApplianceError) -> Response[ErrorResponse]:
    """Exception handler of this route."""
    return error_response(error, media_type=JSON_PLAIN, overrides=CLIENT_FAULTS)


@post(
    "/api/create",
    status_code=200,
    dto=GoJSON[wire.CreateRequest],
    operation_class=StreamedOperation,
    responses=ERRORS,
    exception_handlers={ApplianceError: on_error},
)
async def create(data: JSONBody[wire.CreateRequest], service: Injected) -> Response[wire.ProgressResponse]:
    """Make a model from an installed one or from uploaded files."""
    return answer(service.create(request(data)), data.stream)


def request(data: wire.CreateRequest) -> core.CreateRequest:
    """The request in core nouns. Raises InvalidRequest, and Forbidden for a remote model."""
    if data.draft_quantize and not data.draft_files:
        raise InvalidRequest("--draft-quantize requires a DRAFT model")
    if data.draft_files:
        raise Unsupported("draft models are not supported")
    if data.remote_host:
        raise Forbidden("ollama cloud is disabled: remote models are unavailable")
    licenses = [data.license] if isinstance(data.license, str) else data.license
    return core.CreateRequest(
        model=data.model or data.name,
        source=data.from_,
        files=data.files,
        adapters=data.adapters,
        template=data.template,
        system=data.system,
        licenses=tuple(text for text in licenses if text),
        parameters=data.parameters,
        messages=tuple(message(each) for each in data.messages),
        quantize=data.quantize or data.quantization,
        renderer=data.renderer,
        parser=data.parser,
        requires=data.requires,
        info=data.info,
    )
