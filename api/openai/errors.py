"""Errors in OpenAI's envelope, with the statuses of the native API."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import Request, Response

from api.encode import JSON_PLAIN, JSONResponse
from api.errors import status_of
from appliance.errors import ApplianceError

KINDS = {400: "invalid_request_error", 404: "not_found_error"}


class ErrorBody(msgspec.Struct):
    """What went wrong. `param` and `code` are never told."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorEnvelope(msgspec.Struct):
    """Every error's body."""

    error: ErrorBody


def on_error(_: Request[Any, Any, Any], error: ApplianceError) -> Response[ErrorEnvelope]:
    """Exception handler: an error that was raised on purpose."""
    status = status_of(error)
    envelope = ErrorEnvelope(ErrorBody(str(error), KINDS.get(status, "api_error")))
    return JSONResponse(envelope, status_code=status, media_type=JSON_PLAIN)
