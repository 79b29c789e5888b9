"""What the routes of this dialect have in common: their errors and streams in the OpenAPI document."""

from __future__ import annotations

from dataclasses import dataclass

from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import OpenAPIFormat, OpenAPIMediaType, OpenAPIType, Operation, RequestBody, Schema

from api.encode import JSON_PLAIN, NDJSON
from api.errors import ErrorResponse

ERRORS = {
    status: ResponseSpec(ErrorResponse, description=description, generate_examples=False)
    for status, description in (
        (400, "The request is malformed or cannot be carried out"),
        (404, "There is no such model"),
        (500, "The request failed"),
    )
}


@dataclass
class StreamedOperation(Operation):
    """An operation that answers with lines of what its schema describes, or with `stream: false` with one."""

    def __post_init__(self) -> None:
        """Add the second media type to the answer."""
        answer = (self.responses or {})["200"]
        content = getattr(answer, "content", None) or {}
        content[NDJSON] = content[JSON_PLAIN]


@dataclass
class UploadOperation(Operation):
    """An operation that takes any bytes."""

    def __post_init__(self) -> None:
        """Describe the body."""
        anything = Schema(type=OpenAPIType.STRING, format=OpenAPIFormat.BINARY)
        self.request_body = RequestBody(content={"application/octet-stream": OpenAPIMediaType(schema=anything)})
