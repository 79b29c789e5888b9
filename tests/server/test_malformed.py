"""Two thousand malformed requests at a real server: clear errors, no traceback, no hang, and it still works."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.server.conftest import TINY
from tests.server.daemon import Server, serving

REQUESTS = 2000
NAMES = [
    "",
    " ",
    ".",
    "..",
    "../../etc/passwd",
    "/etc/passwd",
    "a/b/c/d/e",
    "a" * 400,
    "tiny:",
    ":tag",
    "tiny:..",
    "..%2f..%2fetc",
    "nul\x00l",
    "tiny\n",
    "~/.ssh/id",
    "tiny:cloud",
    "x:8b-cloud",
    "café",
    "\ud800",
    "-hh/nn/mm:tt",
    "sha256:0",
    "http://tiny",
    "http://[::1/x/y",
    "library/tiny",
    "TINY",
    0,
    None,
    [],
    {},
    True,
    1e999,
]
WRONG = [None, True, False, 0, -1, 1.5, 1e308, 10**400, "", "x", "1", [], [1], ["x"], {}, {"x": 1}, "\x00", "\ud83d"]
FILES = ["../x.gguf", "/abs.gguf", "a/../../b.gguf", "", ".", "x\x00.gguf", "ok.gguf", "\\\\host\\x.gguf"]
DIGESTS = ["sha256:" + "0" * 64, "sha256-" + "f" * 64, "sha256:zz", "../../x", "", "sha512:" + "0" * 128, 7, None]
FIELDS = {
    "/api/generate": [
        "model",
        "prompt",
        "suffix",
        "system",
        "template",
        "context",
        "stream",
        "raw",
        "format",
        "keep_alive",
        "images",
        "options",
        "think",
        "truncate",
        "shift",
        "logprobs",
        "top_logprobs",
    ],
    "/api/chat": ["model", "messages", "tools", "stream", "format", "keep_alive", "options", "think", "logprobs"],
    "/api/embed": ["model", "input", "truncate", "dimensions", "keep_alive", "options"],
    "/api/embeddings": ["model", "prompt", "keep_alive", "options"],
    "/api/rerank": ["model", "query", "documents", "top_n", "return_documents", "truncate", "keep_alive", "options"],
    "/api/show": ["model", "name", "verbose", "system", "options"],
    "/api/copy": ["source", "destination"],
    "/api/delete": ["model", "name"],
    "/api/create": [
        "model",
        "from",
        "files",
        "adapters",
        "template",
        "system",
        "license",
        "parameters",
        "messages",
        "quantize",
        "stream",
        "info",
        "renderer",
        "parser",
        "requires",
    ],
}
OPTIONS = [
    "num_ctx",
    "num_predict",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "typical_p",
    "repeat_penalty",
    "stop",
    "seed",
    "repeat_last_n",
    "presence_penalty",
    "frequency_penalty",
    "num_keep",
    "num_thread",
    "use_mmap",
]
EXPECTED_5XX = (
    "must be of type",
    "must be of an array",
    "pull model manifest",
    "does not support embeddings",
    "not in GGUF",
    "invalid format",
    "quantization",
    "unsupported",
)


def bodies(dice: random.Random) -> Iterator[tuple[str, bytes]]:
    """Endpoints and malformed bodies for them, without end."""
    while True:
        path = dice.choice(list(FIELDS))
        body = {field: value(dice, field) for field in FIELDS[path] if dice.random() < 0.3}
        if dice.random() < 0.7:
            target = "victim" if path in ("/api/delete", "/api/create") else TINY
            body["model"] = dice.choice([target, dice.choice(NAMES)])
        if path in ("/api/generate", "/api/chat"):  # a request that turns out valid should end soon
            options = body.get("options")
            body["options"] = {
                **(options if isinstance(options, dict) else {}),
                "num_predict": dice.choice([0, 1, "x"]),
            }
        text = json.dumps(body).encode()
        kind = dice.random()
        if kind < 0.1:
            text = text[: dice.randrange(len(text) + 1)]
        elif kind < 0.2:
            text = bytes(dice.randrange(256) for _ in range(dice.randrange(60)))
        elif kind < 0.25:
            text = b"[" * dice.randrange(1, 20_000)
        elif kind < 0.3 and text:
            at = dice.randrange(len(text))
            text = text[:at] + bytes([dice.randrange(256)]) + text[at + 1 :]
        yield path, text


def value(dice: random.Random, field: str) -> Any:
    """Something wrong, or nearly right, for a field."""
    if dice.random() < 0.4:
        return dice.choice(WRONG)
    match field:
        case "options" | "parameters":
            return {dice.choice(OPTIONS): dice.choice(WRONG) for _ in range(dice.randrange(4))}
        case "files" | "adapters":
            return {dice.choice(FILES): dice.choice(DIGESTS) for _ in range(dice.randrange(3))}
        case "messages":
            return [
                {dice.choice(["role", "content", "images", "x"]): dice.choice(WRONG)} for _ in range(dice.randrange(3))
            ]
        case "model" | "name" | "from" | "source" | "destination":
            return dice.choice(NAMES)
        case "template":
            return dice.choice(
                ["{{ .Prompt", "{{ if }}", "{{ range $i := .X }}{{ end }}", "{{ .Prompt }}", "{{ nofunc }}"]
            )
        case _:
            return dice.choice(WRONG)


@pytest.mark.slow
def test_malformed_requests_get_clear_errors(tmp_path: Path, tiny_gguf: Path) -> None:
    with serving(tmp_path / "models") as server:
        server.create(TINY, tiny_gguf)
        bombard(server, tiny_gguf)


def bombard(server: Server, gguf: Path) -> None:
    dice = random.Random(20)
    stream = bodies(dice)
    statuses: dict[int, int] = {}
    for _ in range(REQUESTS):
        path, body = next(stream)
        method = "DELETE" if path == "/api/delete" else "POST"
        answer = server.client.request(method, path, content=body, timeout=30)
        statuses[answer.status_code] = statuses.get(answer.status_code, 0) + 1
        check(answer, path, body, server)
        if path in ("/api/delete", "/api/copy", "/api/create") and answer.status_code == 200:
            restore(server, gguf)
    assert statuses[400] > REQUESTS / 4
    answer = server.client.post(
        "/api/generate", json={"model": TINY, "prompt": "hi", "stream": False, "options": {"num_predict": 2}}
    )
    assert answer.status_code == 200
    assert answer.json()["eval_count"] >= 1


def check(answer: httpx.Response, path: str, body: bytes, server: Server) -> None:
    about = f"{path} {body[:300]!r} -> {answer.status_code} {answer.text[:300]}"
    assert "Traceback" not in answer.text, about
    assert str(server.models) not in answer.text or path == "/api/show", about  # show's modelfile names the blob
    if answer.status_code >= 500:
        assert any(text in answer.json()["error"] for text in EXPECTED_5XX), about
    elif answer.status_code >= 400:
        assert answer.json()["error"], about


def restore(server: Server, gguf: Path) -> None:
    """Put back what a request that was valid after all has removed or added."""
    names = {model["name"] for model in server.client.get("/api/tags").json()["models"]}
    for name in names - {f"{TINY}:latest"}:
        server.client.request("DELETE", "/api/delete", json={"model": name})
    if f"{TINY}:latest" not in names:
        server.create(TINY, gguf)


PATHS = [
    "/api/../etc/passwd",
    "/api/blobs/..%2f..%2fetc%2fpasswd",
    "/api/blobs/sha256:xyz",
    "//",
    "/api",
    "/api/generate/",
    "/api/tags?x=%00",
    "/%00",
    "/api/blobs/" + "a" * 5000,
    "/openapi/../api",
    "/static/x",
    "/schema",
]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD"])
def test_odd_paths_and_methods(tiny_server: Server, method: str, path: str) -> None:
    answer = tiny_server.client.request(method, path, content=b"x")
    assert answer.status_code < 500
    assert "Traceback" not in answer.text
