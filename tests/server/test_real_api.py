"""What Ollama's integration tests ask of a server, with SmolLM2."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ollama
import pytest

from tests.server.daemon import Server, serving

MODEL = "smollm2:135m"
SKY = "Why is the sky blue? Name the kind of scattering."
GREEDY = {"temperature": 0, "num_predict": 80}
FIGURES = ("total_duration", "load_duration", "prompt_eval_count", "prompt_eval_duration", "eval_count")

pytestmark = pytest.mark.slow


@pytest.fixture
def client(smollm2_server: Server) -> Iterator[ollama.Client]:
    client = ollama.Client(host=smollm2_server.url, timeout=120)
    yield client
    client._client.close()


def lines(server: Server, path: str, **body: Any) -> list[dict[str, Any]]:
    with server.client.stream("POST", f"/api/{path}", json={"model": MODEL, **body}) as answer:
        assert answer.status_code == 200
        return [json.loads(line) for line in answer.iter_lines()]


@pytest.mark.spec(97, 98)
@pytest.mark.parametrize("path", ["generate", "chat"])
def test_an_answer_in_pieces(smollm2_server: Server, client: ollama.Client, path: str) -> None:
    asked = {"prompt": SKY} if path == "generate" else {"messages": [{"role": "user", "content": SKY}]}
    *parts, last = lines(smollm2_server, path, options=GREEDY, **asked)
    assert len(parts) > 10
    assert {part["model"] for part in [*parts, last]} == {MODEL}
    assert not any(part["done"] for part in parts)
    text = "".join(part["response"] if path == "generate" else part["message"]["content"] for part in parts)
    assert "scatter" in text.lower()
    assert (last["done"], last["done_reason"] in ("stop", "length")) == (True, True)
    assert all(last[figure] > 0 for figure in FIGURES)
    assert ("context" in last) == (path == "generate")
    (loaded,) = client.ps().models
    assert (loaded.model, len(loaded.digest or "")) == (MODEL, 64)
    assert loaded.expires_at
    assert (loaded.size or 0) > 50_000_000


@pytest.mark.spec(99)
def test_what_is_told_of_an_installed_model(client: ollama.Client) -> None:
    (row,) = (model for model in client.list().models if model.model == MODEL)
    assert row.modified_at
    assert row.details
    assert (row.details.format, row.details.family, row.details.parameter_size) == ("gguf", "llama", "134.52M")
    assert row.details.quantization_level == "Q4_1"
    assert (row.size or 0) > 90_000_000
    assert len(row.digest or "") == 64
    shown = client.show(MODEL)
    assert shown.modelinfo
    assert shown.modelinfo["general.parameter_count"] == 134_515_008
    assert {"llama.context_length", "llama.embedding_length", "tokenizer.ggml.model"} <= set(shown.modelinfo)
    assert "<|im_start|>" in str(shown.template)
    assert str(shown.modelfile).startswith("# Modelfile generated")
    assert shown.capabilities
    assert "completion" in shown.capabilities
    assert shown.modified_at == row.modified_at


@pytest.mark.spec(100, 101)
@pytest.mark.parametrize("path", ["generate", "chat"])
def test_logprobs(smollm2_server: Server, path: str) -> None:
    asked: dict[str, Any] = {"prompt": SKY} if path == "generate" else {"messages": [{"role": "user", "content": SKY}]}
    asked["options"] = {"temperature": 0, "num_predict": 10, "stop": []}
    assert not any("logprobs" in line for line in lines(smollm2_server, path, **asked))
    found = [
        entry
        for line in lines(smollm2_server, path, logprobs=True, top_logprobs=3, **asked)
        for entry in line.get("logprobs", ())
    ]
    assert len(found) == 10
    for entry in found:
        assert entry["token"]
        assert entry["logprob"] <= 0
        assert bytes(entry["bytes"]) == entry["token"].encode()
        best = [each["logprob"] for each in entry["top_logprobs"]]
        assert len(best) == 3
        assert best == sorted(best, reverse=True)
        assert math.isclose(best[0], entry["logprob"], abs_tol=1e-5), "the most likely token is the one taken"
        assert all(bytes(each["bytes"]) == each["token"].encode() for each in entry["top_logprobs"])


@pytest.mark.spec(107)
def test_a_conversation_is_remembered(client: ollama.Client) -> None:
    turns = [
        {"role": "user", "content": "Repeat after me: purple elephant"},
        {"role": "assistant", "content": "purple elephant"},
        {"role": "user", "content": "Repeat it again."},
    ]
    assert client.chat(MODEL, turns, options=GREEDY).message.content == "purple elephant"
    assert "purple" not in str(client.chat(MODEL, turns[2:], options=GREEDY).message.content)


@pytest.mark.spec(112)
def test_any_script_in_a_folder_of_any_name(tmp_path: Path, smollm2_gguf: Path) -> None:
    with serving(tmp_path / "модели ü 模型") as server:
        server.create("ünï".encode().hex(), smollm2_gguf, system="Répète: 日本語, العربية, 🎈.")
        body = {"model": "ünï".encode().hex(), "prompt": "Привет 🌍"}
        shown = server.client.post("/api/show", json={"model": body["model"]}).json()
        assert shown["system"] == "Répète: 日本語, العربية, 🎈."
        rendered = server.client.post("/api/generate", json=body | {"_debug_render_only": True}).json()
        assert "Привет 🌍" in rendered["_debug_info"]["rendered_template"]
        wanted = {"const": "日本語 العربية 🎈"}
        options = {"num_predict": 60}
        answer = server.client.post(
            "/api/generate", json=body | {"stream": False, "format": wanted, "options": options}
        )
        assert json.loads(answer.json()["response"]) == "日本語 العربية 🎈"
