"""Routes that tell about models and the server, and those that change models."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from litestar import Litestar
from litestar.testing import TestClient

from appliance import __version__, core, errors
from appliance.conversion_facts import BundleFacts, Fidelity, Likeness
from tests.api.fake import BLOB, DETAILS, FACTS, FakeService

Client = TestClient[Litestar]
JSON = "application/json; charset=utf-8"
WHEN = datetime(2026, 8, 21, 9, 30, 0, 120000, tzinfo=UTC)


@pytest.fixture
def oslo(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The server's local time is two hours ahead."""
    monkeypatch.setenv("TZ", "XXX-2")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def summary(name: str, modified_at: datetime = WHEN) -> core.ModelSummary:
    return core.ModelSummary(name, modified_at, 98_000_000, "ab" * 32, FACTS, ("completion",))


@pytest.mark.spec(1)
def test_root_and_version(client: Client) -> None:
    response = client.get("/")
    assert (response.status_code, response.text) == (200, "Ollama is running")
    assert response.headers["content-type"] == "text/plain; charset=utf-8"
    response = client.get("/api/version")
    assert (response.headers["content-type"], response.text) == (JSON, '{"version":"0.33.0"}')


@pytest.mark.parametrize("path", ["/", "/api/version", "/api/tags"])
def test_head(client: Client, path: str) -> None:
    response, whole = client.head(path), client.get(path)
    assert (response.status_code, response.content) == (200, b"")
    for header in ("content-type", "content-length"):
        assert response.headers[header] == whole.headers[header]


@pytest.mark.spec(2)
def test_no_models(client: Client) -> None:
    assert client.get("/api/tags").text == '{"models":[]}'
    assert client.get("/api/ps").text == '{"models":[]}'


@pytest.mark.spec(4)
@pytest.mark.usefixtures("oslo")
def test_tags(client: Client, service: FakeService) -> None:
    service.installed = [summary("old:latest", WHEN - timedelta(days=1)), summary("test-model:latest")]
    response = client.get("/api/tags")
    assert response.headers["content-type"] == JSON
    assert [model["name"] for model in response.json()["models"]] == ["test-model:latest", "old:latest"]
    assert (
        '{"name":"test-model:latest","model":"test-model:latest","modified_at":"2026-08-21T11:30:00.12+02:00",'
        f'"size":98000000,"digest":"{"ab" * 32}","details":{{"parent_model":"","format":"gguf","family":"llama",'
        '"families":["llama"],"parameter_size":"134.52M","quantization_level":"Q4_1","context_length":2048,'
        '"embedding_length":576},"capabilities":["completion"]}'
    ) in response.text
    assert "expires_at" not in response.text


@pytest.mark.usefixtures("oslo")
def test_ps(client: Client, service: FakeService) -> None:
    soon = core.LoadedModel("a:latest", 10, 0, "ab" * 32, replace(FACTS, families=()), WHEN, 4096)
    service.running = [soon, replace(soon, name="b:latest", expires_at=WHEN + timedelta(days=292 * 365))]
    models = client.get("/api/ps").json()["models"]
    assert [model["name"] for model in models] == ["b:latest", "a:latest"]
    assert (
        '{"name":"a:latest","model":"a:latest","size":10,'
        f'"digest":"{"ab" * 32}","details":{{"parent_model":"","format":"gguf","family":"llama",'
        '"families":null,"parameter_size":"134.52M","quantization_level":"Q4_1"},'
        '"expires_at":"2026-08-21T11:30:00.12+02:00","size_vram":0,"context_length":4096}'
    ) in client.get("/api/ps").text


@pytest.mark.spec(10)
def test_show(client: Client, service: FakeService) -> None:
    body = '{"model":"m","verbose":true,"system":"s","options":{"seed":1},"template":"ignored"}'
    response = client.post("/api/show", content=body)
    assert service.calls == [("show", "m", "s", {"seed": 1}, True)]
    assert response.headers["content-type"] == JSON
    shown = response.json()
    assert list(shown) == [
        "modelfile",
        "parameters",
        "template",
        "details",
        "model_info",
        "tensors",
        "capabilities",
        "modified_at",
    ]
    assert "context_length" not in shown["details"]
    assert shown["model_info"]["general.parameter_count"] == 134515008
    assert shown["tensors"] == [{"name": "token_embd.weight", "type": "Q8_0", "shape": [576, 49152]}]


def test_show_always_has_model_info(client: Client, service: FakeService) -> None:
    messages = (core.Message("user", "hi"),)
    service.details = replace(DETAILS, model_info={}, messages=messages, license="MIT", requires="0.14.0")
    shown = client.post("/api/show", content='{"name":"m"}').json()
    assert shown["model_info"] == {}
    assert shown["messages"] == [{"role": "user", "content": "hi"}]
    assert (shown["license"], shown["requires"]) == ("MIT", "0.14.0")


def test_show_tells_what_the_model_was_converted_to(client: Client, service: FakeService) -> None:
    fidelity = Fidelity(tokens=2044, nll=3.1845, source_nll=3.1763, top1=0.941)
    service.details = replace(DETAILS, bundle=BundleFacts("int8-rotated", "q8_0", 155000000, fidelity))
    shown = client.post("/api/show", content='{"model":"m"}').json()
    assert shown["bundle"] == {
        "recipe": "int8-rotated",
        "kv_cache_type": "q8_0",
        "size": 155000000,
        "fidelity": {"tokens": 2044, "nll": 3.1845, "source_nll": 3.1763, "top1": 0.941},
    }
    likeness = Likeness(27, 0.997, 0.994)
    service.details = replace(DETAILS, bundle=BundleFacts("int8", "", 2, likeness))
    shown = client.post("/api/show", content='{"model":"m"}').json()["bundle"]
    assert shown["likeness"] == {"texts": 27, "cosine": 0.997, "least_cosine": 0.994}
    service.details = replace(DETAILS, bundle=BundleFacts("exact", "", 2))
    assert client.post("/api/show", content='{"model":"m"}').json()["bundle"] == {"recipe": "exact", "size": 2}
    service.details = replace(DETAILS, bundle=BundleFacts("exact", "f32", 1))
    shown = client.post("/api/show", content='{"model":"m"}').json()
    assert shown["bundle"] == {"recipe": "exact", "kv_cache_type": "f32", "size": 1}


@pytest.mark.spec(16)
def test_copilot_sees_the_name_it_asked_for(client: Client) -> None:
    for agent, name in (("GitHubCopilotChat/1", "m"), ("curl/8", None)):
        shown = client.post("/api/show", content='{"model":"m"}', headers={"user-agent": agent}).json()
        assert shown["model_info"].get("general.basename") == name


@pytest.mark.spec(5, 9)
def test_copy_and_delete(client: Client, service: FakeService) -> None:
    response = client.post("/api/copy", content='{"source":"a","destination":"b"}')
    assert (response.status_code, response.content) == (200, b"")
    for body in ('{"model":"a"}', '{"name":"a"}'):
        response = client.request("DELETE", "/api/delete", content=body)
        assert (response.status_code, response.content) == (200, b"")
    assert service.calls == [("copy", "a", "b"), ("delete", "a"), ("delete", "a")]


@pytest.mark.parametrize(
    ("method", "path", "body", "text"),
    [
        ("POST", "/api/show", "{}", "model is required"),
        ("POST", "/api/show", '{"model":" "}', "model is required"),
        ("POST", "/api/show", "null", "model is required"),
        ("POST", "/api/show", "", "missing request body"),
        ("DELETE", "/api/delete", "{}", "model is required"),
        ("DELETE", "/api/delete", "", "missing request body"),
        ("POST", "/api/copy", "", "missing request body"),
    ],
)
def test_refused(client: Client, service: FakeService, method: str, path: str, body: str, text: str) -> None:
    response = client.request(method, path, content=body)
    assert (response.status_code, response.json(), service.calls) == (400, {"error": text}, [])


def test_the_service_chooses_the_words(client: Client, service: FakeService) -> None:
    service.error = errors.InvalidName('source "" is invalid')
    response = client.post("/api/copy", content="{}")
    assert (response.status_code, response.json()) == (400, {"error": 'source "" is invalid'})
    service.error = errors.ModelNotFound("model 'x:latest' not found")
    response = client.post("/api/show", content='{"model":"x"}')
    assert (response.status_code, response.json()) == (404, {"error": "model 'x:latest' not found"})


@pytest.mark.spec(12)
@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/api/show", "POST"),
        ("POST", "/api/tags", "GET, HEAD"),
        ("HEAD", "/api/ps", "GET"),
        ("PUT", f"/api/blobs/{BLOB}", "HEAD, POST"),
        ("GET", "/api/nothing", None),
        ("GET", "/api/tags/more", None),
        ("GET", "//api/tags", None),
        ("GET", "/api//tags", None),
        ("GET", "/api/tags//", None),
        ("GET", "//evil.example/", None),
        ("GET", "/schema", None),
        ("GET", "/openapi.json/x", None),
        ("POST", "/api/blobs/", None),
        ("POST", "/api/blobs", None),
    ],
)
def test_unknown_paths_and_wrong_methods(client: Client, method: str, path: str, allow: str | None) -> None:
    response = client.request(method, f"http://localhost{path}")
    assert response.headers["content-type"] == "text/plain; charset=utf-8"
    assert response.headers.get("allow") == allow
    assert response.status_code == (405 if allow else 404)
    if method != "HEAD":
        assert response.text == ("405 method not allowed" if allow else "404 page not found")


@pytest.mark.parametrize(
    ("method", "path", "status", "location"),
    [
        ("GET", "/api/tags/", 301, "/api/tags"),
        ("GET", "/api/tags/?a=b", 301, "/api/tags?a=b"),
        ("GET", "/api/tags%2F", 301, "/api/tags"),
        ("HEAD", "/api/tags/", 307, "/api/tags"),
        ("POST", "/api/generate/", 307, "/api/generate"),
        ("POST", "/api/blobs/x/", 307, "/api/blobs/x"),
    ],
)
def test_a_trailing_slash_redirects(client: Client, method: str, path: str, status: int, location: str) -> None:
    response = client.request(method, f"http://localhost{path}", follow_redirects=False)
    assert (response.status_code, response.headers["location"]) == (status, location)


def test_openapi(client: Client) -> None:
    document = client.get("/openapi.json").json()
    assert sorted(document["paths"]) == [
        "/",
        "/api/blobs/{digest}",
        "/api/chat",
        "/api/copy",
        "/api/create",
        "/api/delete",
        "/api/df",
        "/api/embed",
        "/api/embeddings",
        "/api/experimental/model-recommendations",
        "/api/experimental/web_fetch",
        "/api/experimental/web_search",
        "/api/export",
        "/api/generate",
        "/api/import",
        "/api/prune",
        "/api/ps",
        "/api/pull",
        "/api/push",
        "/api/rerank",
        "/api/show",
        "/api/stats",
        "/api/status",
        "/api/tags",
        "/api/verify",
        "/api/version",
        "/v1/models",
        "/v1/models/{model}",
    ]
    chat = document["paths"]["/api/chat"]["post"]
    reference = {"schema": {"$ref": "#/components/schemas/ChatRequest"}}
    assert chat["requestBody"]["content"] == {"application/json": reference}
    assert sorted(chat["responses"]["200"]["content"]) == ["application/json", "application/x-ndjson"]
    assert chat["responses"]["400"]["content"]["application/json"]["schema"]["$ref"].endswith("/ErrorResponse")
    schema = document["components"]["schemas"]["ChatRequest"]
    assert schema["required"] == ["model"]
    assert {"messages", "keep_alive", "_debug_render_only"} <= set(schema["properties"])
    upload = document["paths"]["/api/blobs/{digest}"]["post"]["requestBody"]
    assert list(upload["content"]) == ["application/octet-stream"]


def test_stats(client: Client, service: FakeService) -> None:
    assert client.get("/api/stats").text == f'{{"version":"{__version__}","models":[]}}'
    service.engines["a:latest"] = core.EngineStats(
        slots=4,
        busy_slots=4,
        waiting=3,
        queue=(30, 20),
        prompt_tokens=100,
        cached_tokens=40,
        evaluated_tokens=80,
        generated_tokens=25,
        drafted_tokens=0,
        accepted_tokens=0,
        prefix_cache_bytes=5,
        prefix_evictions={"live": 2},
    )
    response = client.get("/api/stats")
    assert (response.status_code, response.headers["content-type"]) == (200, JSON)
    assert response.json() == {
        "version": __version__,
        "models": [
            {
                "name": "a:latest",
                "slots": {"total": 4, "busy": 4},
                "waiting": 3,
                "queue": [{"position": 1, "prompt_tokens": 30}, {"position": 2, "prompt_tokens": 20}],
                "tokens": {"prompt": 100, "cached": 40, "evaluated": 80, "generated": 25},
                "speculation": {"drafted": 0, "accepted": 0},
                "prefix_cache": {"bytes": 5, "evictions": {"live": 2}},
            }
        ],
    }
