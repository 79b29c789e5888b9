"""/api/embed, /api/embeddings and /api/rerank against a scripted service."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from litestar import Litestar
from litestar.testing import TestClient

from api.floats import number, vector
from appliance import core, errors
from tests.api.fake import FakeService

Client = TestClient[Litestar]
JSON = "application/json; charset=utf-8"


def post(client: Client, path: str, body: str | dict[str, Any]) -> Any:
    return client.post(path, content=json.dumps(body) if isinstance(body, dict) else body)


def test_a_batch(client: Client, service: FakeService) -> None:
    body = '{"Model":"all-minilm","input":["a","b"],"dimensions":2,"keep_alive":"5m","options":{"num_ctx":30}}'
    response = post(client, "/api/embed", body)
    assert (response.status_code, response.headers["content-type"]) == (200, JSON)
    assert response.text == (
        '{"model":"all-minilm","embeddings":[[0.6,0.8],[1,0]],'
        '"total_duration":312000000,"load_duration":15000000,"prompt_eval_count":7}'
    )
    assert service.calls == [
        core.EmbedRequest("all-minilm", ("a", "b"), dimensions=2, options={"num_ctx": 30}, keep_alive_s=300)
    ]


@pytest.mark.parametrize(
    ("given", "inputs"),
    [
        ('"one"', ("one",)),
        ('["one"]', ("one",)),
        ('["", "b"]', ("", "b")),
        ('[""]', ("",)),
        ('""', ()),
        ("[]", ()),
        ("null", ()),
    ],
)
def test_what_is_an_input(client: Client, service: FakeService, given: str, inputs: tuple[str, ...]) -> None:
    service.script = []
    assert post(client, "/api/embed", f'{{"model":"m","input":{given}}}').status_code == 200
    assert service.calls[0].inputs == inputs


def test_without_input_the_model_loads(client: Client, service: FakeService) -> None:
    service.embeddings = core.Embeddings()
    response = post(client, "/api/embed", '{"model":"m"}')
    assert (response.status_code, response.text) == (200, '{"model":"m","embeddings":[]}')
    response = post(client, "/api/embeddings", '{"model":"m","prompt":""}')
    assert (response.status_code, response.text) == (200, '{"embedding":[]}')
    assert [call.inputs for call in service.calls] == [(), ()]


@pytest.mark.parametrize("given", ["1", "true", "{}", '["a",1]', '["a",["b"]]', "[null]", "[[1,2]]"])
def test_what_is_no_input(client: Client, service: FakeService, given: str) -> None:
    response = post(client, "/api/embed", f'{{"model":"m","input":{given}}}')
    assert (response.status_code, response.json()) == (400, {"error": "invalid input type"})
    assert service.calls == []


def test_the_name_comes_before_the_input(client: Client) -> None:
    for name, status, text in (("", 404, "model '' not found"), ("-x", 400, "invalid model name")):
        response = post(client, "/api/embed", {"model": name, "input": 7})
        assert (response.status_code, response.json()) == (status, {"error": text})
    response = post(client, "/api/embed", "null")
    assert (response.status_code, response.json()) == (404, {"error": "model '' not found"})
    response = post(client, "/api/embeddings", "{}")
    assert (response.status_code, response.json()) == (400, {"error": "model is required"})


def test_wrong_types_are_named(client: Client) -> None:
    response = post(client, "/api/embed", '{"model":"m","dimensions":"8"}')
    text = "json: cannot unmarshal string into Go struct field EmbedRequest.dimensions of type int"
    assert (response.status_code, response.json()) == (400, {"error": text})
    response = post(client, "/api/embeddings", '{"model":"m","prompt":["a"]}')
    text = "json: cannot unmarshal array into Go struct field EmbeddingRequest.prompt of type string"
    assert (response.status_code, response.json()) == (400, {"error": text})
    response = post(client, "/api/embed", '{"model":"m","keep_alive":"300"}')
    assert (response.status_code, response.json()) == (400, {"error": 'time: missing unit in duration "300"'})


def test_the_old_endpoint_keeps_vectors_as_they_are(client: Client, service: FakeService) -> None:
    service.embeddings = core.Embeddings(np.array([[0.1, -2]], np.float32), prompt_tokens=3)
    response = post(client, "/api/embeddings", '{"model":"m","prompt":"a","options":{"num_ctx":30},"keep_alive":0}')
    assert (response.status_code, response.text) == (200, '{"embedding":[0.10000000149011612,-2]}')
    asked = core.EmbedRequest("m", ("a",), False, normalize=False, options={"num_ctx": 30}, keep_alive_s=0)
    assert service.calls == [asked]


@pytest.mark.parametrize(
    ("error", "status", "old_status"),
    [
        (errors.NoEmbeddings("m"), 501, 500),
        (errors.InputTooLong(600, 512), 400, 500),
        (errors.NotEmbedded("embedding contains NaN or Inf values"), 400, 500),
        (errors.ModelNotFound('model "m" not found, try pulling it first'), 404, 404),
        (errors.InvalidOption('option "num_ctx" must be of type integer'), 500, 500),
        (errors.Forbidden("ollama cloud is disabled: remote model is unavailable"), 403, 403),
        (errors.ServerBusy(1), 503, 503),
        (errors.EngineStopped(), 500, 500),
    ],
)
def test_statuses(client: Client, service: FakeService, error: Exception, status: int, old_status: int) -> None:
    service.script = [error]
    response = post(client, "/api/embed", '{"model":"m","input":"a"}')
    assert (response.status_code, response.json()) == (status, {"error": str(error)})
    response = post(client, "/api/embeddings", '{"model":"m","prompt":"a"}')
    assert (response.status_code, response.json()) == (old_status, {"error": str(error)})


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.010071031, "0.010071031"),
        (-7.227309e-33, "-7.227309e-33"),
        (1.5e-6, "0.0000015"),
        (9.9e-7, "9.9e-7"),
        (1e-6, "0.000001"),
        (0.0, "0"),
        (-0.0, "-0"),
        (-1.0, "-1"),
        (123456.0, "123456"),
        (1e20, "100000000000000000000"),
        (1e21, "1e+21"),
    ],
)
def test_numbers_look_as_in_go(value: float, text: str) -> None:
    assert number(np.float32(value)) == text
    assert number(np.float64(value)) == text


def test_numbers_read_back_as_they_were() -> None:
    rng = np.random.default_rng(5)
    values = (rng.standard_normal(2000) * 10.0 ** rng.integers(-40, 38, 2000)).astype(np.float32)
    assert np.array_equal(np.array(json.loads(bytes(vector(values))), np.float32), values)
    wide = values.astype(np.float64)
    assert np.array_equal(np.array(json.loads(bytes(vector(wide))), np.float64), wide)


def test_rerank(client: Client, service: FakeService) -> None:
    body = {"model": "ranker", "query": "sky?", "documents": ["grass", {"text": "blue"}], "top_n": 2}
    response = post(client, "/api/rerank", body)
    assert (response.status_code, response.headers["content-type"]) == (200, JSON)
    assert response.text == (
        '{"model":"ranker","usage":{"prompt_tokens":21,"total_tokens":21},"results":['
        '{"index":1,"document":{"text":"blue"},"relevance_score":0.75},'
        '{"index":0,"document":{"text":"grass"},"relevance_score":0.25}]}'
    )
    assert service.calls == [core.RerankRequest("ranker", "sky?", ("grass", "blue"), top_n=2)]
    response = post(client, "/api/rerank", {**body, "return_documents": False})
    assert response.json()["results"][0] == {"index": 1, "relevance_score": 0.75}


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"model": ""}, "model is required"),
        ({"query": " "}, "query is required"),
        ({"documents": []}, "documents is required: at least one text"),
        ({"documents": ["a", 7]}, "documents[1] must be a text, or an object with a text"),
        ({"documents": [{"title": "x"}]}, "documents[0] must be a text, or an object with a text"),
        ({"top_n": 0}, "top_n is 0; it must be at least 1"),
    ],
)
def test_what_cannot_be_ranked(client: Client, service: FakeService, change: dict[str, Any], text: str) -> None:
    response = post(client, "/api/rerank", {"model": "m", "query": "q", "documents": ["d"], **change})
    assert (response.status_code, response.json()) == (400, {"error": text})
    assert service.calls == []
