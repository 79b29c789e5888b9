"""The values of settings, from text: as Ollama reads its environment.

Every parser takes the text without the blanks and quotes around it, and raises ValueError with what the value must be.
"""

from __future__ import annotations

import ipaddress
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from appliance.bundle import KV_TYPES
from appliance.core import FOREVER_S

log = logging.getLogger(__name__)

DEFAULT_PORT = 11434
_TRUE = frozenset({"1", "t", "T", "true", "TRUE", "True"})
_FALSE = frozenset({"0", "f", "F", "false", "FALSE", "False"})
_DURATION_UNITS_S = {
    "ns": 1e-9,
    "us": 1e-6,
    "µs": 1e-6,
    "μs": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "m": 60.0,
    "h": 3.6e3,
}
_LONGEST_S = 2**63 / 1e9  # Go's longest duration, 292 years
_DURATION_PART = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)")


class Address(NamedTuple):
    """What OLLAMA_HOST says. `port` is None when neither a port nor a scheme was written."""

    scheme: str
    host: str
    port: int | None
    path: str


def clean(value: str) -> str:
    """The text of an environment variable without the blanks and quotes around it."""
    return value.strip().strip("\"'")


def parse_bool(text: str) -> bool:
    """Go's strconv.ParseBool; raises ValueError."""
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    raise ValueError("must be true or false")


def parse_duration_s(text: str) -> float:
    """Seconds of a Go duration ("1h30m", "-1m", "500ms") or of a plain number; raises ValueError."""
    try:
        seconds = float(text)
    except ValueError:
        sign, body = (-1.0, text[1:]) if text.startswith("-") else (1.0, text.removeprefix("+"))
        parts = _DURATION_PART.findall(body)
        if not parts or "".join(number + unit for number, unit in parts) != body:
            raise ValueError("must be seconds or a duration such as 5m") from None
        seconds = sign * sum(float(number) * _DURATION_UNITS_S[unit] for number, unit in parts)
    if seconds != seconds:
        raise ValueError("must be seconds or a duration such as 5m")
    return seconds


def parse_address(text: str) -> Address:
    """OLLAMA_HOST in any of its forms: `host`, `host:port`, `:port`, `[::1]:port`, a URL with a path.

    A written scheme brings its own default port (http 80, https 443). `:port` alone means every interface. A
    port that is none is replaced by the default, with a warning.
    """
    scheme, separator, rest = text.strip().rpartition("://")
    default_port = {"http": 80, "https": 443}.get(scheme, DEFAULT_PORT) if separator else DEFAULT_PORT
    host_port, _, path = rest.partition("/")
    port: int | None = default_port if separator else None
    if match := re.fullmatch(r"(\[[^\]]*\]|[^:]*):([^:]*)", host_port):
        host, port_text = match[1].strip("[]") or "0.0.0.0", match[2]
        if port_text.isdecimal() and int(port_text) <= 65535:
            port = int(port_text)
        else:
            log.warning("invalid port %r, using %d", port_text, default_port)
            port = default_port
    else:
        host = host_port.strip("[]") or "127.0.0.1"
    return Address(scheme or "http", _canonical(host), port, path.strip("/"))


def _canonical(host: str) -> str:
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return host


def parse_keep_alive_s(text: str) -> float:
    """OLLAMA_KEEP_ALIVE: negative is forever."""
    seconds = parse_duration_s(text)
    return FOREVER_S if seconds < 0 or seconds >= _LONGEST_S else seconds


def parse_timeout_s(text: str) -> float:
    """OLLAMA_LOAD_TIMEOUT: 0 or less is no limit."""
    seconds = parse_duration_s(text)
    return FOREVER_S if seconds <= 0 else seconds


def integer(minimum: int, maximum: int | None = None) -> Callable[[str], int]:
    """A parser of whole numbers within bounds."""

    def parse(text: str) -> int:
        bounds = f"at least {minimum}" if maximum is None else f"from {minimum} to {maximum}"
        if not re.fullmatch(r"[+-]?\d{1,18}", text):
            raise ValueError(f"must be a whole number, {bounds}")
        number = int(text)
        if number < minimum or (maximum is not None and number > maximum):
            raise ValueError(f"must be {bounds}")
        return number

    return parse


def one_of(choices: tuple[str, ...]) -> Callable[[str], str]:
    """A parser of words."""

    def parse(text: str) -> str:
        if text not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}")
        return text

    return parse


def parse_kv_cache_type(text: str) -> str:
    """OLLAMA_KV_CACHE_TYPE, upper case or lower. Its "f16" is kept at twice the bytes; what loses more is refused."""
    wanted = text.lower()
    if wanted == "f16":
        log.warning("KV cache type f16: on the CPU keys and values are kept in float32 (f32); q8_0 takes a quarter")
        return "f32"
    if wanted not in KV_TYPES:
        raise ValueError(f"must be one of {', '.join(KV_TYPES)}")
    return wanted


def parse_level(text: str) -> int:
    """OLLAMA_DEBUG: a boolean, or a number where 2 means trace."""
    return int(parse_bool(text)) if text in _TRUE or text in _FALSE else integer(0)(text)


def parse_list(text: str) -> tuple[str, ...]:
    """The parts between commas, without blanks."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def parse_endpoint(text: str) -> str:
    """The address of a server, without a slash at its end."""
    try:
        parts = urlsplit(text)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        sound = False
    if not sound:
        raise ValueError("must be an address like https://huggingface.co")
    return text.rstrip("/")


def parse_path(text: str) -> Path:
    """A path; `~` is the home folder."""
    if not text:
        raise ValueError("must not be empty")
    return Path(text).expanduser()
