"""What every answer must be, whatever was asked."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from scripts.fuzz.client import Answer, Request

ON_PURPOSE: dict[int, tuple[str, ...]] = {
    500: (
        r'option ".*" must be of ',  # Ollama's status for an option of the wrong type
        r'invalid format: .*; expected "json" or a valid JSON Schema object$',
        r"template",  # one that does not work on this request
        r"pull model manifest: ",  # create from what is not installed
        r"quantization is only supported for ",
        r"unsupported quantization type ",
        r"This server does not support embeddings\.",  # /api/embeddings
        r"the input length exceeds the context length",
    ),
    501: (r"This server does not support embeddings\.",),
    503: (r"server busy, please try again\.  maximum pending requests exceeded$",),
}
"""Statuses from 500 and the texts that explain them."""
CODE = re.compile(
    r'Traceback \(most recent|File "[^"]*", line \d|<[\w.]+ object at 0x|\b(litestar|msgspec|uvicorn)\.\w'
)
PLAIN = {
    400: "Invalid HTTP request received.",  # before there was a request at all
    404: "404 page not found",
    405: "405 method not allowed",
}
EMPTY = (200, 201, 204, 301, 307, 403)
NATIVE_LINES = "application/x-ndjson"
OCTETS = "application/octet-stream"


def complaints(request: Request, answer: Answer, places: Iterable[Path]) -> list[str]:
    """What is wrong with an answer, in words. `places` are folders of which no answer may tell."""
    found = []
    if CODE.search(answer.text):
        found.append("tells of the code")
    for place in places:
        if str(place) in answer.text and not _may_tell_places(request):
            found.append(f"tells of {place}")
    if "internal error" in answer.text:
        found.append("a defect")
    if request.method.upper() != "HEAD":
        found += _form(request, answer)
    return found


def _may_tell_places(request: Request) -> bool:
    return re.split("[?#]", request.path)[0] == "/api/show"  # its Modelfile names the blob, as Ollama's does


def _form(request: Request, answer: Answer) -> list[str]:
    """What is wrong with the form of a body."""
    shared = request.path.startswith("/v2/")
    if not answer.body:
        return [] if answer.status in EMPTY or (shared and answer.status == 416) else ["no body"]
    if answer.content_type.startswith("text/plain"):
        right = answer.text == PLAIN.get(answer.status, "Ollama is running")
        return [] if right else [f"plain text that is not expected: {answer.text[:200]}"]
    if answer.content_type == OCTETS:
        return [] if shared and answer.status in (200, 206) else ["bytes that nobody asked for"]
    lines = answer.text.splitlines() if answer.content_type == NATIVE_LINES else [answer.text]
    try:
        parsed = [json.loads(line) for line in lines]
    except ValueError as error:
        return [f"not JSON: {error}"]
    if answer.status < 400:
        return [] if all(isinstance(line, dict) for line in parsed) else ["a line that is no object"]
    words = _words(request.path, parsed[0]) if len(parsed) == 1 else None
    if words is None:
        return [f"not an error as it should be: {answer.text[:200]}"]
    if answer.status >= 500 and not _on_purpose(answer.status, words):
        return [f"{answer.status} without a reason"]
    return [] if words else ["an error without words"]


def _words(path: str, body: Any) -> str | None:
    """An error's text; None if it is not in the form of its path's dialect: OpenAI's, a registry's, or Ollama's."""
    match body:
        case {"error": {"message": str(text), "type": str(), "param": _, "code": _}}:
            return text if path.startswith("/v1/") else None
        case {"errors": [{"code": str(), "message": str(text)}]}:
            return text if path.startswith("/v2/") else None
        case {"error": str(text)} if len(body) == 1:
            return text if not path.startswith(("/v1/", "/v2/")) else None
    return None


def _on_purpose(status: int, text: str) -> bool:
    search: Callable[[str], object] = lambda pattern: re.search(pattern, text)  # noqa: E731
    return any(map(search, ON_PURPOSE.get(status, ())))
