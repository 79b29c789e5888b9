"""/api/df, /api/prune and /api/verify on the wire."""

from __future__ import annotations

import json

from litestar import Litestar
from litestar.testing import TestClient

from appliance.upkeep import DiskUsage, Flaw, Leftover, ModelUsage, Pruned, Verified
from tests.api.fake import FakeService

Client = TestClient[Litestar]


def test_df(client: Client, service: FakeService) -> None:
    service.caretaker.usage = DiskUsage((ModelUsage("m:latest", 9, 8, 7),), 9, 0, 7, 1, 2, 100, 50, 10)
    assert client.get("/api/df").json() == {
        "models": [{"name": "m:latest", "size": 9, "alone": 8, "bundles": 7}],
        "blobs": 9, "unused": 0, "bundles": 7, "prefixes": 1, "partial": 2, "disk": 100, "free": 50, "floor": 10,
    }  # fmt: skip


def test_prune(client: Client, service: FakeService) -> None:
    service.caretaker.pruned = Pruned((Leftover("blobs/x", 5, "why"), Leftover("onnx/y", 6, "why not")))
    answer = client.post("/api/prune", json={})
    assert answer.json() == {
        "dry_run": False,
        "size": 11,
        "leftovers": [
            {"name": "blobs/x", "size": 5, "reason": "why"},
            {"name": "onnx/y", "size": 6, "reason": "why not"},
        ],
        "kept": "",
    }
    assert client.post("/api/prune", json={"dry_run": True}).json()["dry_run"] is True
    assert service.caretaker.calls == [("prune", False), ("prune", True)]


def test_verify(client: Client, service: FakeService) -> None:
    service.caretaker.verified = Verified(2, 1, 10, (Flaw("blobs/x", "bad", ("m:latest",), "pull", True),))
    lines = [json.loads(line) for line in client.post("/api/verify", json={"remove": True}).text.splitlines()]
    assert lines[0] | {"flaws": []} == {
        "status": "verifying", "total": 10, "completed": 5, "blobs": 0, "bundles": 0, "flaws": []
    }  # fmt: skip
    flaw = {"name": "blobs/x", "problem": "bad", "models": ["m:latest"], "mend": "pull", "removed": True}
    last = {"status": "success", "total": 10, "completed": 10, "blobs": 2, "bundles": 1, "flaws": [flaw]}
    assert lines[1:] == [last]
    assert client.post("/api/verify", json={"stream": False}).json() == last
    assert service.caretaker.calls == [("verify", True, False), ("verify", False, False)]
