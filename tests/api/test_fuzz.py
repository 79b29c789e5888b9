"""Whatever is sent, the answer is JSON, and never the server's own failure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from litestar import Litestar
from litestar.testing import TestClient

from api.app import create_app
from api.ollama import vector_wire, wire
from appliance.core import DoneReason, Progress, Reply
from tests.api.fake import FakeService, FakeSettings

ROUTES = {
    ("POST", "/api/generate"): wire.GenerateRequest,
    ("POST", "/api/chat"): wire.ChatRequest,
    ("POST", "/api/embed"): vector_wire.EmbedRequest,
    ("POST", "/api/embeddings"): vector_wire.EmbeddingRequest,
    ("POST", "/api/rerank"): vector_wire.RerankRequest,
    ("POST", "/api/show"): wire.ShowRequest,
    ("POST", "/api/copy"): wire.CopyRequest,
    ("DELETE", "/api/delete"): wire.DeleteRequest,
    ("POST", "/api/create"): wire.CreateRequest,
}
SETTINGS = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

STRUCTS = (*ROUTES.values(), wire.Message, wire.Tool, wire.ToolCall, wire.ToolFunction, wire.ToolProperty)
KEYS = sorted({name for kind in STRUCTS for name in kind.__struct_encode_fields__})


def objects(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=5), inner, max_size=5)


numbers = st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False))
scalars = st.one_of(st.none(), st.booleans(), numbers, st.text(), st.sampled_from(["user", "high", "5m", "-1", "aGk="]))
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | objects(inner), max_leaves=12)
texts = objects(values).map(lambda value: json.dumps(value).encode())


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """JSON with a piece cut out, and bytes put in."""
    body = draw(texts)
    start, end = sorted((draw(st.integers(0, len(body))), draw(st.integers(0, len(body)))))
    return body[:start] + draw(st.binary(max_size=4)) + body[end:]


bodies = st.one_of(st.binary(), texts, damaged())


@pytest.fixture(scope="module")
def fuzzed() -> Iterator[tuple[TestClient[Litestar], FakeService]]:
    service = FakeService()
    with TestClient(create_app(service, FakeSettings())) as client:
        yield client, service


@pytest.mark.parametrize(("method", "path"), ROUTES)
@SETTINGS
@given(body=bodies)
def test_any_body(fuzzed: tuple[TestClient[Litestar], FakeService], method: str, path: str, body: bytes) -> None:
    client, service = fuzzed
    service.calls.clear()
    service.script = [Reply(done=True, done_reason=DoneReason.LOAD)] if "create" not in path else [Progress("success")]
    response = client.request(method, path, content=body)
    assert response.status_code in (200, 400, 403, 404), response.text
    if response.status_code == 200:
        for line in response.text.splitlines():
            json.loads(line)
        assert len(service.calls) == 1
    else:
        assert list(response.json()) == ["error"]
        assert response.json()["error"] != "internal error"
        assert service.calls == []


@SETTINGS
@given(
    path=st.text(st.characters(exclude_categories=["Cs"]), max_size=30),
    method=st.sampled_from(["GET", "POST", "HEAD", "PUT", "OPTIONS"]),
)
def test_any_path(fuzzed: tuple[TestClient[Litestar], FakeService], path: str, method: str) -> None:
    client, _ = fuzzed
    response = client.request(method, f"http://localhost/{quote(path)}", follow_redirects=False)
    assert response.status_code in (200, 204, 301, 307, 404, 405)
