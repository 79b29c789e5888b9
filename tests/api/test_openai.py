"""The lists of models in OpenAI's shape."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from litestar import Litestar
from litestar.testing import TestClient

from appliance import core, errors
from tests.api.fake import DETAILS, FACTS, FakeService

Client = TestClient[Litestar]
WHEN = datetime(2026, 8, 21, 9, 30, tzinfo=UTC)
SECONDS = 1787304600


def summary(name: str, days: int = 0) -> core.ModelSummary:
    return core.ModelSummary(name, WHEN - timedelta(days=days), 1, "ab" * 32, FACTS, ("completion",))


@pytest.mark.spec(3)
def test_no_models(client: Client) -> None:
    response = client.get("/v1/models")
    assert response.headers["content-type"] == "application/json"
    assert response.text == '{"object":"list","data":[]}'


@pytest.mark.spec(7, 69, 84)
def test_models_in_the_order_of_the_native_list(client: Client, service: FakeService) -> None:
    service.installed = [
        summary("apple/OpenELM:latest", 2),
        summary("h/space/lips:code", 1),
        summary("test-model:latest"),
    ]
    response = client.get("/v1/models").json()
    assert response["data"][0] == {
        "id": "test-model:latest", "object": "model", "created": SECONDS, "owned_by": "library",
    }  # fmt: skip
    native = [model["name"] for model in client.get("/api/tags").json()["models"]]
    assert [model["id"] for model in response["data"]] == native
    assert [model["owned_by"] for model in response["data"]] == ["library", "space", "apple"]


@pytest.mark.spec(11)
def test_one_model(client: Client, service: FakeService) -> None:
    service.details = replace(DETAILS, modified_at=WHEN)
    response = client.get("/v1/models/show-model")
    assert response.headers["content-type"] == "application/json"
    assert response.json() == {"id": "show-model", "object": "model", "created": SECONDS, "owned_by": "library"}
    assert service.calls[0][:2] == ("show", "show-model")


@pytest.mark.spec(74, 84)
@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (errors.ModelNotFound("model 'x:latest' not found"), 404, "not_found_error"),
        (errors.InvalidName("invalid model name"), 400, "invalid_request_error"),
        (errors.Forbidden("ollama cloud is disabled: remote model details are unavailable"), 403, "api_error"),
    ],
)
def test_errors(client: Client, service: FakeService, error: errors.ApplianceError, status: int, kind: str) -> None:
    service.error = error
    response = client.get("/v1/models/x")
    assert (response.status_code, response.headers["content-type"]) == (status, "application/json")
    assert response.json() == {"error": {"message": str(error), "type": kind, "param": None, "code": None}}


def test_unknown_routes_stay_plain(client: Client) -> None:
    assert client.get("/v1/nothing").text == "404 page not found"
    assert client.post("/v1/models").text == "405 method not allowed"
