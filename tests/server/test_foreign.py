"""Folders of models in other forms, created over HTTP and talked to."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.foreign_model import write_genai_folder, write_gpt2
from tests.server.daemon import Server
from tests.tiny_model import write_tiny_gguf

MESSAGES = [{"role": "user", "content": "hello in the"}]
GREEDY = {"temperature": 0, "num_predict": 24}


def create(server: Server, name: str, folder: Path) -> None:
    files = {path.name: server.upload(path) for path in folder.iterdir()}
    answer = server.client.post("/api/create", json={"model": name, "files": files, "stream": False})
    assert answer.json() == {"status": "success"}, answer.text


def generate(server: Server, name: str) -> str:
    body = {"model": name, "prompt": "hello in the", "raw": True, "stream": False, "options": GREEDY}
    answer = server.client.post("/api/generate", json=body).json()
    assert answer["eval_count"] > 1, answer
    return str(answer["response"])


@pytest.mark.slow
def test_a_folder_for_onnxruntime_genai_says_what_the_gguf_of_its_weights_says(
    tiny_server: Server, tmp_path: Path
) -> None:
    write_genai_folder(tmp_path / "genai", tmp_path / "ours")
    create(tiny_server, "genai", tmp_path / "genai")
    tiny_server.create("same", write_tiny_gguf(tmp_path / "same.gguf"), parameters={"recipe": "fp32"})
    assert generate(tiny_server, "genai") == generate(tiny_server, "same")
    shown = tiny_server.client.post("/api/show", json={"model": "genai"}).json()
    assert shown["details"]["format"] == "onnx"
    assert shown["details"]["family"] == "llama"
    assert shown["model_info"]["llama.context_length"] == 512
    assert "completion" in shown["capabilities"]
    for name in ("genai", "same"):
        tiny_server.client.request("DELETE", "/api/delete", json={"model": name})


@pytest.mark.slow
def test_a_model_that_only_optimum_builds_is_exported_and_talks(tiny_server: Server, tmp_path: Path) -> None:
    write_gpt2(tmp_path / "gpt2")
    create(tiny_server, "gpt2", tmp_path / "gpt2")
    body = {"model": "gpt2", "messages": MESSAGES, "stream": False, "options": GREEDY}
    first, second = (tiny_server.client.post("/api/chat", json=body).json() for _ in range(2))
    assert first["done_reason"] in ("stop", "length")
    assert first["message"]["content"] == second["message"]["content"]
    assert first["prompt_eval_count"] > 5
    tiny_server.client.request("DELETE", "/api/delete", json={"model": "gpt2"})
