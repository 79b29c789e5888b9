"""Response bodies: JSON as Go writes it, and its timestamps."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from typing import Any, TypeVar

import msgspec
from litestar import Response

JSON = "application/json; charset=utf-8"
JSON_PLAIN = "application/json"
NDJSON = "application/x-ndjson"
T = TypeVar("T")

_ENCODER = msgspec.json.Encoder()
# Go's <, >, &, U+2028 and U+2029; and U+0085, at which clients that split a stream with splitlines() would cut.
# The control characters at which they also would are escaped in any JSON.
_ESCAPED = re.compile(rb"[<>&]|\xe2\x80[\xa8\xa9]|\xc2\x85")


def encode(value: Any) -> bytes:
    """`value` as JSON in UTF-8."""
    return _ESCAPED.sub(_escape, _ENCODER.encode(value))


def _escape(match: re.Match[bytes]) -> bytes:
    return b"\\u%04x" % ord(match[0].decode())


class JSONResponse(Response[T]):
    """A struct as an ordinary JSON body."""

    def __init__(
        self,
        content: T,
        *,
        status_code: int | None = None,
        media_type: str = JSON,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(content, status_code=status_code, media_type=media_type, headers=headers)

    def render(self, content: Any, *_: Any, **__: Any) -> bytes:
        """The body; `content` is anything that msgspec encodes."""
        return encode(content)


def utc_now() -> str:
    """Now in UTC, to the nanosecond: `2026-08-21T09:30:00.1Z`."""
    seconds, nanoseconds = divmod(time.time_ns(), 10**9)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + _fraction(nanoseconds) + "Z"


def local_time(moment: datetime) -> str:
    """`moment` with the server's offset: `2026-08-21T11:30:00.1+02:00`, `Z` where that is UTC."""
    local = moment.astimezone()
    offset = "Z" if local.utcoffset() == UTC.utcoffset(None) else local.isoformat()[-6:]
    return local.strftime("%Y-%m-%dT%H:%M:%S") + _fraction(local.microsecond * 1000) + offset


def _fraction(nanoseconds: int) -> str:
    return f".{nanoseconds:09d}".rstrip("0").rstrip(".")
