"""What every answer must be, whatever was asked."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path

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
    return request.path.partition("?")[0] == "/api/show"  # its Modelfile names the blob, as Ollama's does


def _form(request: Request, answer: Answer) -> list[str]:
    """What is wrong with the form of a body."""
    if not answer.body:
        return [] if answer.status in EMPTY else ["no body"]
    if answer.content_type.startswith("text/plain"):
        right = answer.text == PLAIN.get(answer.status, "Ollama is running")
        return [] if right else [f"plain text that is not expected: {answer.text[:200]}"]
    lines = answer.text.splitlines() if answer.content_type == NATIVE_LINES else [answer.text]
    try:
        parsed = [json.loads(line) for line in lines]
    except ValueError as error:
        return [f"not JSON: {error}"]
    errors = [_words(line["error"]) for line in parsed if isinstance(line, dict) and "error" in line]
    if request.path.startswith("/v1/") and parsed and isinstance(parsed[0].get("error"), str):
        return ["not OpenAI's envelope"]
    if answer.status < 400:
        return [] if all(isinstance(line, dict) for line in parsed) else ["a line that is no object"]
    if len(errors) != 1 or len(parsed) != 1 or list(parsed[0]) != ["error"] or not isinstance(errors[0], str):
        return [f"not an error as it should be: {answer.text[:200]}"]
    if answer.status >= 500 and not _on_purpose(answer.status, errors[0]):
        return [f"{answer.status} without a reason"]
    return [] if errors[0] else ["an error without words"]


def _words(error: object) -> object:
    """An error's text, also out of OpenAI's envelope."""
    return error.get("message") if isinstance(error, dict) and len(error) == 4 else error


def _on_purpose(status: int, text: str) -> bool:
    search: Callable[[str], object] = lambda pattern: re.search(pattern, text)  # noqa: E731
    return any(map(search, ON_PURPOSE.get(status, ())))
