"""From what was raised to a status and the body `{"error": "..."}`. Dialects with other bodies reuse the statuses."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import msgspec
from litestar import MediaType, Request, Response
from litestar.exceptions import HTTPException

from api.encode import JSON, JSONResponse
from appliance.errors import (
    ApplianceError,
    BlobNotFound,
    DigestMismatch,
    Forbidden,
    InvalidModelfile,
    InvalidOption,
    InvalidRequest,
    InvalidTemplate,
    ModelNotFound,
    NoEmbeddings,
    NotEnoughDisk,
    RequestCancelled,
    ServerBusy,
)

log = logging.getLogger(__name__)

STATUSES: Mapping[type[ApplianceError], int] = {
    InvalidRequest: 400,
    InvalidOption: 500,  # Ollama's status for an option of the wrong type
    InvalidTemplate: 500,  # and for a template that does not work on this request
    InvalidModelfile: 400,
    DigestMismatch: 400,
    NoEmbeddings: 501,
    Forbidden: 403,
    ModelNotFound: 404,
    BlobNotFound: 404,
    RequestCancelled: 499,
    ServerBusy: 503,
    NotEnoughDisk: 507,
    ApplianceError: 500,
}


class ErrorResponse(msgspec.Struct):
    """Every error's body."""

    error: str


def status_of(error: ApplianceError, overrides: Mapping[type[ApplianceError], int] = {}) -> int:
    """The status of the error's nearest class in `overrides`, else in STATUSES."""
    for table in (overrides, STATUSES):
        for kind in type(error).__mro__:
            if kind in table:
                return table[kind]
    raise AssertionError("STATUSES covers ApplianceError")


def text_of(error: Exception) -> str:
    """What the client is told. An error that nobody foresaw is logged and stays vague."""
    if isinstance(error, ApplianceError):
        return str(error)
    log.error("unexpected error", exc_info=error)
    return "internal error"


def error_response(
    error: ApplianceError, *, media_type: str = JSON, overrides: Mapping[type[ApplianceError], int] = {}
) -> Response[ErrorResponse]:
    """The whole answer to a request that failed before anything was sent."""
    headers = {"retry-after": str(error.retry_after_s)} if isinstance(error, ServerBusy) else None
    return JSONResponse(
        ErrorResponse(str(error)), status_code=status_of(error, overrides), media_type=media_type, headers=headers
    )


def on_appliance_error(_: Request[Any, Any, Any], error: ApplianceError) -> Response[ErrorResponse]:
    """Exception handler: an error that was raised on purpose."""
    return error_response(error)


def on_http_error(_: Request[Any, Any, Any], error: HTTPException) -> Response[ErrorResponse]:
    """Exception handler: what the framework refuses, without its envelope."""
    text = error.detail if error.status_code < 500 else text_of(error)
    return JSONResponse(ErrorResponse(text), status_code=error.status_code)


def on_unexpected_error(_: Request[Any, Any, Any], error: Exception) -> Response[ErrorResponse]:
    """Exception handler: a defect."""
    return JSONResponse(ErrorResponse(text_of(error)), status_code=500)


def on_not_found(_: Request[Any, Any, Any], __: HTTPException) -> Response[str]:
    """Exception handler: no such path."""
    return Response("404 page not found", status_code=404, media_type=MediaType.TEXT)


def on_wrong_method(_: Request[Any, Any, Any], error: HTTPException) -> Response[str]:
    """Exception handler: the path exists. OPTIONS, which the framework adds to every path, is not ours."""
    allowed = sorted({*(error.headers or {}).get("allow", "").split(", ")} - {"OPTIONS"})
    headers = {"allow": ", ".join(allowed)}
    return Response("405 method not allowed", status_code=405, media_type=MediaType.TEXT, headers=headers)


HANDLERS: dict[int | type[Exception], Any] = {
    404: on_not_found,
    405: on_wrong_method,
    ApplianceError: on_appliance_error,
    HTTPException: on_http_error,
    Exception: on_unexpected_error,
}
