"""The floor of free space, as clients of a server meet it."""

from __future__ import annotations

from pathlib import Path

from tests.server.daemon import serving


def test_a_server_at_its_floor_takes_nothing_more_and_gives_back(tmp_path: Path, tiny_gguf: Path) -> None:
    models = tmp_path / "models"
    with serving(models) as server:
        server.create("before", tiny_gguf)
    with serving(models, APPLIANCE_DISK_FLOOR_BYTES=str(10**17)) as server:
        refused = server.client.post(f"/api/blobs/sha256:{'0' * 64}", content=b"x" * 1000)
        assert refused.status_code == 507
        assert "disk_floor_bytes" in refused.json()["error"]
        body = {"model": "after", "from": "before", "system": "new", "stream": False}
        assert "not enough disk space" in server.client.post("/api/create", json=body).json()["error"]
        assert server.client.post("/api/copy", json={"source": "before", "destination": "b"}).status_code == 507
        body = {"model": "before", "prompt": "hello", "stream": False, "options": {"num_predict": 3}}
        assert server.client.post("/api/generate", json=body).status_code == 200
        assert server.client.request("DELETE", "/api/delete", json={"model": "before"}).status_code == 200
        assert not [path for path in models.rglob("*") if path.is_file() and path.name != "appliance.lock"]
