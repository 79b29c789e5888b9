"""Models with a LoRA, from uploaded files to an answer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.server.daemon import Server
from tests.tiny_adapter import write_gguf_adapter, write_peft


def logprobs(server: Server, model: str) -> list[float]:
    """Of the most likely first tokens, which hardly any two models have alike."""
    body = {"model": model, "prompt": "hello", "raw": True, "stream": False, "logprobs": True, "top_logprobs": 5}
    answer = server.client.post("/api/generate", json=body | {"options": {"temperature": 0, "num_predict": 1}}).json()
    return [each["logprob"] for each in answer["logprobs"][0]["top_logprobs"]]


@pytest.mark.parametrize("form", ["gguf", "peft"])
def test_a_model_with_an_adapter(tiny_server: Server, tmp_path: Path, form: str) -> None:
    paths = [write_gguf_adapter(tmp_path / "a.gguf")] if form == "gguf" else [*write_peft(tmp_path / "peft").iterdir()]
    before = logprobs(tiny_server, "tiny")
    body = {"model": "adapted", "from": "tiny", "adapters": {path.name: tiny_server.upload(path) for path in paths}}
    lines = tiny_server.client.post("/api/create", json=body).text.splitlines()
    statuses = [json.loads(line).get("status") for line in lines]
    assert ("converting adapter" in statuses) == (form == "peft")
    assert statuses[-1] == "success", lines
    try:
        assert logprobs(tiny_server, "adapted") != pytest.approx(before, abs=0.05)
        assert logprobs(tiny_server, "tiny") == before
        shown = tiny_server.client.post("/api/show", json={"model": "adapted"}).json()
        assert "\nADAPTER " in shown["modelfile"]
    finally:
        tiny_server.client.request("DELETE", "/api/delete", json={"model": "adapted"})
    assert not list((tiny_server.models / "onnx").glob("adapter-*"))


def test_an_adapter_of_another_architecture_leaves_no_model(tiny_server: Server, tmp_path: Path) -> None:
    path = write_gguf_adapter(tmp_path / "a.gguf", architecture="qwen2")
    body = {"model": "adapted", "from": "tiny", "adapters": {"a.gguf": tiny_server.upload(path)}}
    last = json.loads(tiny_server.client.post("/api/create", json=body).text.splitlines()[-1])
    assert last == {"error": "an adapter for the architecture 'qwen2' is not supported; supported: 'llama'"}
    assert tiny_server.client.post("/api/show", json={"model": "adapted"}).status_code == 404
