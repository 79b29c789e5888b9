"""What goes through Ollama's cloud: this server says that it does not."""

from __future__ import annotations

from pathlib import Path

import pytest
from litestar import Litestar
from litestar.testing import TestClient

from appliance.cloud import switched_off_by
from tests.api.fake import FakeService

Client = TestClient[Litestar]


@pytest.mark.spec(73)
@pytest.mark.parametrize("source", ["none", "env", "config", "both"])
def test_status(client: Client, service: FakeService, source: str) -> None:
    service.cloud_switch = source
    assert client.get("/api/status").text == f'{{"cloud":{{"disabled":true,"source":"{source}"}}}}'


@pytest.mark.spec(73)
@pytest.mark.parametrize(
    ("variable", "file", "source"),
    [
        (None, None, "none"),
        ("1", None, "env"),
        (" 'yes' ", None, "env"),
        ("false", None, "none"),
        ("", '{"disable_ollama_cloud":true}', "config"),
        ("true", '{"disable_ollama_cloud":true,"more":1}', "both"),
        (None, '{"disable_ollama_cloud":false}', "none"),
        (None, '{"disable_ollama_cloud":"true"}', "none"),
        ("1", "[", "env"),
        (None, "[1]", "none"),
    ],
)
def test_where_it_was_switched_off(tmp_path: Path, variable: str | None, file: str | None, source: str) -> None:
    if file is not None:
        (tmp_path / ".ollama").mkdir()
        (tmp_path / ".ollama" / "server.json").write_text(file)
    environ = {} if variable is None else {"OLLAMA_NO_CLOUD": variable}
    assert switched_off_by(environ, tmp_path) == source


@pytest.mark.spec(74)
@pytest.mark.parametrize("body", [b"", b'{"query":"sky"}', b"{"])
def test_web_tools_are_refused(client: Client, body: bytes) -> None:
    for tool, name in (("web_search", "web search"), ("web_fetch", "web fetch")):
        response = client.post(f"/api/experimental/{tool}", content=body)
        text = f"ollama cloud is disabled: {name} is unavailable"
        assert (response.status_code, response.json()) == (403, {"error": text})


def test_no_model_is_recommended(client: Client) -> None:
    assert client.get("/api/experimental/model-recommendations").text == '{"recommendations":[]}'
