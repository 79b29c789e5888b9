"""/api/export and /api/import on the wire."""

from __future__ import annotations

import httpx
import pytest
from litestar import Litestar
from litestar.testing import TestClient

from appliance.errors import ModelFileError
from tests.api.fake import FakeService

Client = TestClient[Litestar]


def test_export(client: Client, service: FakeService) -> None:
    answer = client.post("/api/export", json={"models": ["m", "n"]})
    assert (answer.status_code, answer.content) == (200, b"firstsecond")
    assert (answer.headers["content-type"], answer.headers["content-length"]) == ("application/x-tar", "11")
    assert service.caretaker.calls == [("pack", ("m", "n"))]


def test_an_export_that_fails_is_seen_to_be_incomplete(port: int, service: FakeService) -> None:
    service.caretaker.archive = (b"first", ModelFileError("damaged"), b"second")
    with pytest.raises(httpx.RemoteProtocolError, match="complete message body"):
        httpx.post(f"http://127.0.0.1:{port}/api/export", json={"models": ["m"]})


def test_import(client: Client, service: FakeService) -> None:
    answer = client.post("/api/import", content=b"x" * 100_000)
    assert (answer.status_code, answer.json()) == (200, {"models": ["m:latest"]})
    assert service.caretaker.calls == [("unpack", False), ("commit", b"x" * 100_000), "abort"]


def test_an_import_that_only_checks(client: Client, service: FakeService) -> None:
    for asked, dry_run in (("?dry_run=true", True), ("?dry_run=1", True), ("?dry_run=false", False)):
        assert client.post(f"/api/import{asked}", content=b"x").json() == {"models": ["m:latest"]}
        assert service.caretaker.calls.pop(0) == ("unpack", dry_run)
        service.caretaker.calls.clear()
    assert client.post("/api/import?dry_run=perhaps", content=b"x").status_code == 400
    assert service.caretaker.calls == []


def test_an_import_that_is_refused(port: int, service: FakeService) -> None:
    pieces = iter([b"bad", *[b"x" * 100_000] * 50])
    answer = httpx.post(f"http://127.0.0.1:{port}/api/import", content=pieces)
    assert answer.status_code == 400
    assert "it is bad" in answer.json()["error"]
    assert service.caretaker.calls == [("unpack", False), "abort"]
