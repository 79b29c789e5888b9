"""/v2/: which bytes a range asks for, and that nothing is there unless wanted."""

from __future__ import annotations

import pytest
from litestar import Litestar
from litestar.testing import TestClient

from api.share import span


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", None),
        ("bytes=0-0", range(1)),
        ("bytes=2-5", range(2, 6)),
        ("bytes=2-", range(2, 10)),
        ("bytes=2-999", range(2, 10)),
        ("bytes=9-9", range(9, 10)),
        ("bytes=-3", range(7, 10)),
        ("bytes=-30", range(10)),
        ("bytes=-0", range(0)),
        ("bytes=10-", range(0)),
        ("bytes=10-20", range(0)),
        ("bytes=-", None),
        ("bytes=5-2", None),
        ("bytes=0-1,4-5", None),
        ("bytes=a-b", None),
        ("lines=0-1", None),
        (f"bytes=0-{'9' * 100}", None),
    ],
)
def test_ranges(header: str, expected: range | None) -> None:
    found = span(header, 10)
    assert found == expected
    assert (found is None) == (expected is None)


def test_nothing_is_shared_unless_wanted(client: TestClient[Litestar]) -> None:
    for path in ("/v2", "/v2/", "/v2/library/m/tags/list", "/v2/library/m/manifests/latest"):
        answer = client.get(path)
        assert (answer.status_code, answer.text) == (404, "404 page not found")
    assert not any(path.startswith("/v2") for path in client.get("/openapi.json").json()["paths"])
