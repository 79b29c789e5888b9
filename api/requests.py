"""How a request's body is read: JSON whatever its Content-Type, up to a limit; uploads as they come."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, TypeVar

import msgspec
from litestar import Request
from litestar.dto import AbstractDTO
from litestar.exceptions import HTTPException

from api.decode import decode
from appliance.errors import InvalidRequest, RequestCancelled

T = TypeVar("T", bound=msgspec.Struct)

MAX_JSON_BYTES = 64 * 2**20
"""A JSON body is held in memory, several times over while it is decoded. Blobs stream and have no limit."""


class BodyRequest(Request[Any, Any, Any]):
    """A request whose body raises the appliance's errors."""

    async def stream(self) -> AsyncGenerator[bytes, None]:
        """The body as it arrives, of any length. Raises RequestCancelled when the client goes away."""
        while True:
            event = await self.receive()
            if event["type"] != "http.request":
                raise RequestCancelled
            if event["body"]:
                yield event["body"]
            if not event["more_body"]:
                return

    async def body(self) -> bytes:
        """The whole body. Raises InvalidRequest when it is missing, and 413 when it is too large."""
        announced = self.headers.get("content-length", "0")
        chunks = bytearray()
        if announced.isdecimal() and int(announced) > MAX_JSON_BYTES:
            raise _too_large()
        async for chunk in self.stream():
            chunks += chunk
            if len(chunks) > MAX_JSON_BYTES:
                raise _too_large()
        if not chunks:
            raise InvalidRequest("missing request body")
        return bytes(chunks)


def _too_large() -> HTTPException:
    return HTTPException(f"request body is larger than {MAX_JSON_BYTES // 2**20} MiB", status_code=413)


class GoJSON(AbstractDTO[T]):
    """Makes Litestar fill a handler's `data` parameter by `decode`, and describe it in the OpenAPI document."""

    @classmethod
    def create_for_field_definition(cls, *_: Any, **__: Any) -> None:
        """Nothing to prepare: the struct itself is the declaration."""

    @classmethod
    def create_openapi_schema(cls, field_definition: Any, handler_id: str, schema_creator: Any) -> Any:
        """The schema of the struct."""
        return schema_creator.for_field_definition(field_definition)

    @classmethod
    def generate_field_definitions(cls, model_type: type[Any]) -> Any:
        """Part of Litestar's own decoding, which is not used."""
        raise NotImplementedError

    @classmethod
    def detect_nested_field(cls, field_definition: Any) -> bool:
        """Part of Litestar's own decoding, which is not used."""
        raise NotImplementedError

    def decode_bytes(self, value: bytes) -> T:
        """The body as a struct."""
        return decode(self.model_type, value)
