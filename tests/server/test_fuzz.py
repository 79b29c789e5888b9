"""A few hundred of the requests of scripts/fuzz: clear answers, nothing given away, and the server still works."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.fuzz.__main__ import fuzz
from scripts.fuzz.checks import complaints
from scripts.fuzz.client import Answer, Request
from tests.server.daemon import Server

REQUESTS = 300
JSON = "application/json; charset=utf-8"
OCTETS = "application/octet-stream"
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


@pytest.mark.slow
def test_whatever_is_sent_is_answered_clearly(tmp_path: Path) -> None:
    report = fuzz(REQUESTS, seed=20, folder=tmp_path, share=True)
    assert report.faults == []
    assert report.sent >= REQUESTS
    assert min(report.statuses[200], report.statuses[404], report.statuses[400] / 5) > REQUESTS / 50


@pytest.mark.parametrize(
    ("status", "content_type", "body", "fault"),
    [
        (200, JSON, '{"models":[]}', None),
        (200, "application/x-ndjson", '{"a":1}\n{"error":"late"}\n', None),
        (400, JSON, '{"error":"missing request body"}', None),
        (404, "text/plain; charset=utf-8", "404 page not found", None),
        (403, "", "", None),
        (500, JSON, '{"error":"option \\"seed\\" must be of type integer"}', None),
        (500, JSON, '{"error":"it broke"}', "500 without a reason"),
        (500, JSON, '{"error":"internal error"}', "a defect"),
        (400, JSON, '{"error":"open /srv/models/blobs/x: no such file"}', "tells of /srv/models"),
        (400, JSON, '{"error":"x","detail":"y"}', "not an error as it should be"),
        (400, JSON, '{"error":""}', "an error without words"),
        (400, JSON, '{"error":"<api.wire.Message object at 0x7f00>"}', "tells of the code"),
        (200, JSON, '{"models":', "not JSON"),
        (500, "text/plain", "Internal Server Error", "plain text that is not expected"),
        (500, JSON, "", "no body"),
    ],
)
def test_what_is_wrong_with_an_answer(status: int, content_type: str, body: str, fault: str | None) -> None:
    answer = Answer(status, content_type, body.encode(), 0.0)
    found = complaints(Request("POST", "/api/generate"), answer, [Path("/srv/models")])
    assert any(each.startswith(fault) for each in found) if fault else found == []


@pytest.mark.parametrize(
    ("path", "status", "content_type", "body", "fault"),
    [
        (
            "/v2/library/m/tags/list",
            404,
            JSON,
            '{"errors":[{"code":"MANIFEST_UNKNOWN","message":"m is not here"}]}',
            None,
        ),
        ("/v2/library/m/blobs/x", 206, OCTETS, "\x00", None),
        ("/v2/library/m/blobs/x", 416, OCTETS, "", None),
        ("/v2/x", 404, "text/plain", "404 page not found", None),
        ("/v2/library/m/tags/list", 404, JSON, '{"error":"m is not here"}', "not an error as it should be"),
        ("/v2/library/m/tags/list", 404, JSON, '{"errors":[]}', "not an error as it should be"),
        ("/v2/library/m/tags/list", 500, JSON, '{"errors":[{"code":"UNKNOWN","message":"x"}]}', "500 without a reason"),
        ("/v1/models/m", 404, JSON, '{"error":{"message":"m","type":"x","param":null,"code":null}}', None),
        ("/v1/models/m", 404, JSON, '{"error":"m"}', "not an error as it should be"),
        ("/api/tags", 404, JSON, '{"errors":[{"code":"UNKNOWN","message":"x"}]}', "not an error as it should be"),
        ("/api/tags", 200, OCTETS, "x", "bytes that nobody asked for"),
        ("/api/tags", 416, OCTETS, "", "no body"),
    ],
)
def test_every_dialect_has_errors_of_its_own(
    path: str, status: int, content_type: str, body: str, fault: str | None
) -> None:
    found = complaints(Request("GET", path), Answer(status, content_type, body.encode(), 0.0), [])
    assert any(each.startswith(fault) for each in found) if fault else found == []


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD"])
def test_odd_paths_and_methods(tiny_server: Server, method: str, path: str) -> None:
    answer = tiny_server.client.request(method, path, content=b"x")
    assert answer.status_code < 500
    assert "Traceback" not in answer.text
