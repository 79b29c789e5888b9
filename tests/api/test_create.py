"""/api/create and /api/blobs."""

from __future__ import annotations

import json
from typing import Any

import pytest
from litestar import Litestar
from litestar.testing import TestClient

from appliance import core, errors
from appliance.core import Progress
from tests.api.fake import BLOB, FakeService

Client = TestClient[Litestar]
OTHER_BLOB = "sha256:" + "1a" * 32
STEPS = [
    Progress("parsing GGUF"),
    Progress("converting model", digest=OTHER_BLOB, total=10),
    Progress("converting model", digest=OTHER_BLOB, total=10, completed=5),
    Progress("success"),
]


def create(client: Client, body: dict[str, Any]) -> Any:
    return client.post("/api/create", content=json.dumps(body))


def test_progress_is_streamed(client: Client, service: FakeService) -> None:
    service.script = STEPS
    response = create(client, {"model": "m", "files": {"m.gguf": BLOB}})
    assert response.headers["content-type"] == "application/x-ndjson"
    assert response.text == (
        '{"status":"parsing GGUF"}\n'
        f'{{"status":"converting model","digest":"{OTHER_BLOB}","total":10}}\n'
        f'{{"status":"converting model","digest":"{OTHER_BLOB}","total":10,"completed":5}}\n'
        '{"status":"success"}\n'
    )


@pytest.mark.spec(8, 13)
def test_not_streaming_tells_the_last(client: Client, service: FakeService) -> None:
    service.script = STEPS
    response = create(client, {"model": "m", "stream": False})
    assert response.headers["content-type"] == "application/json"
    assert response.text == '{"status":"success"}'


def test_what_is_sent_reaches_the_service(client: Client, service: FakeService) -> None:
    service.script = STEPS
    body = {
        "name": "m",
        "from": "base",
        "files": {"a/b.gguf": BLOB},
        "adapters": {"c.gguf": OTHER_BLOB},
        "template": "t",
        "system": "s",
        "license": ["MIT", "", "Apache"],
        "parameters": {"temperature": 0.25, "stop": ["x"]},
        "messages": [{"role": "User", "content": "hi"}],
        "quantization": "q4_K_M",
        "renderer": "r",
        "parser": "p",
        "requires": "0.14",
        "info": {"model_family": "llama"},
    }
    assert create(client, body).status_code == 200
    assert service.calls == [
        core.CreateRequest(
            model="m",
            source="base",
            files={"a/b.gguf": BLOB},
            adapters={"c.gguf": OTHER_BLOB},
            template="t",
            system="s",
            licenses=("MIT", "Apache"),
            parameters={"temperature": 0.25, "stop": ["x"]},
            messages=(core.Message("user", "hi"),),
            quantize="q4_K_M",
            renderer="r",
            parser="p",
            requires="0.14",
            info={"model_family": "llama"},
        )
    ]


def test_a_license_may_be_one_text(client: Client, service: FakeService) -> None:
    service.script = STEPS
    create(client, {"model": "m", "license": "MIT"})
    create(client, {"model": "m", "license": ""})
    assert [call.licenses for call in service.calls] == [("MIT",), ()]


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        ({"draft_quantize": "q8_0"}, 400, "--draft-quantize requires a DRAFT model"),
        ({"draft_files": {"d.gguf": BLOB}}, 400, "draft models are not supported"),
        ({"remote_host": "ollama.com"}, 403, "ollama cloud is disabled: remote models are unavailable"),
    ],
)
def test_refused(client: Client, service: FakeService, body: dict[str, Any], status: int, text: str) -> None:
    response = create(client, {"model": "m", **body})
    assert (response.status_code, response.json()) == (status, {"error": text})
    assert service.calls == []


@pytest.mark.spec(13)
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.InvalidRequest("neither 'from' or 'files' was specified"), 400),
        (errors.NotGGUF("supplied file was not in GGUF format"), 400),
        (errors.UnsupportedModel("architecture x", ("llama",)), 400),
        (errors.InvalidTemplate("template error: unclosed action"), 400),
        (errors.NotQuantized("quantization is only supported for F16, BF16 and F32 models"), 500),
        (errors.ConversionFailed("the converter ended"), 500),
        (errors.NotEnoughDisk(2, 1), 507),
    ],
)
def test_an_early_error_has_its_status(
    client: Client, service: FakeService, error: errors.ApplianceError, status: int, stream: bool
) -> None:
    service.script = [error]
    response = create(client, {"model": "m", "stream": stream})
    assert (response.status_code, response.json()) == (status, {"error": str(error)})
    assert response.headers["content-type"] == "application/json"


@pytest.mark.spec(13)
def test_a_late_error(client: Client, service: FakeService) -> None:
    service.script = [Progress("parsing GGUF"), errors.NotGGUF("supplied file was not in GGUF format")]
    lines = '{"status":"parsing GGUF"}\n{"error":"supplied file was not in GGUF format"}\n'
    assert create(client, {"model": "m"}).text == lines
    response = create(client, {"model": "m", "stream": False})
    assert (response.status_code, response.text) == (400, '{"error":"supplied file was not in GGUF format"}')


def test_blobs(client: Client, service: FakeService) -> None:
    assert client.head(f"/api/blobs/{BLOB}").status_code == 200
    response = client.head(f"/api/blobs/{OTHER_BLOB}")
    assert (response.status_code, response.content) == (404, b"")
    response = client.post(f"/api/blobs/{OTHER_BLOB}", content=b"x" * 100_000)
    assert (response.status_code, response.content, service.uploaded) == (201, b"", b"x" * 100_000)
    response = client.post(f"/api/blobs/{BLOB}", content=b"y")
    assert (response.status_code, response.content, service.uploaded) == (200, b"", b"x" * 100_000)


def test_an_empty_blob_is_a_blob(client: Client, service: FakeService) -> None:
    assert client.post(f"/api/blobs/{OTHER_BLOB}").status_code == 201
    assert service.uploaded == b""


@pytest.mark.parametrize("digest", ["x", "sha256:", "md5:" + "0" * 64, BLOB + "0", BLOB + "\n", BLOB[:-1] + "g"])
def test_bad_digests(client: Client, service: FakeService, digest: str) -> None:
    response = client.post(f"/api/blobs/{digest}".replace("\n", "%0A"), content=b"x")
    assert (response.status_code, response.json()) == (400, {"error": "invalid digest format"})
    assert client.head(f"/api/blobs/{digest}".replace("\n", "%0A")).status_code == 400
    assert service.calls == []


def test_a_digest_mismatch(client: Client, service: FakeService) -> None:
    service.error = errors.DigestMismatch(OTHER_BLOB, BLOB)
    response = client.post(f"/api/blobs/{OTHER_BLOB}", content=b"x")
    assert response.status_code == 400
    assert response.json() == {"error": f'digest mismatch, expected "{OTHER_BLOB}", got "{BLOB}"'}
