"""Embeddings of a real model from a real server, as Ollama's own clients and integration tests ask for them."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import ollama
import pytest

from tests.minilm import minilm_gguf
from tests.server.conftest import TINY
from tests.server.daemon import PATIENCE_S, Server, serving
from tests.tiny_encoder import random_bert, write_gguf

MODEL, RANKER = "all-minilm", "ranker"
SKY, GRASS = "why is the sky blue?", "why is the grass green?"
GOLDEN = json.loads((Path(__file__).parent.parent / "data" / "minilm-vectors.json").read_text())
LONG = "word " * 3000
MANY = [f"{number} {'sentence of some length ' * 20}" for number in range(5000)]  # minutes of work
BUSY = "server busy, please try again.  maximum pending requests exceeded"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, tiny_gguf: Path) -> Iterator[Server]:
    """One slot, one place in the queue; MiniLM, a model that writes text, and a tiny reranker."""
    environment = {"OLLAMA_NUM_PARALLEL": "1", "OLLAMA_MAX_QUEUE": "1"}
    folder = tmp_path_factory.mktemp("store")
    head = np.random.default_rng(3).standard_normal((1, 64)).astype(np.float32) / 4
    tensors = random_bert() | {"cls.output.weight": head, "cls.output.bias": np.zeros(1, np.float32)}
    ranker = write_gguf(folder / "ranker.gguf", "bert", tensors, heads=4, pooling=4)
    with serving(folder / "models", **environment) as server:
        server.create(MODEL, minilm_gguf())
        server.create(RANKER, ranker)
        server.create(TINY, tiny_gguf)
        yield server


@pytest.fixture
def client(server: Server) -> Iterator[ollama.Client]:
    client = ollama.Client(host=server.url, timeout=PATIENCE_S)
    yield client
    client._client.close()


def ask(server: Server, **body: Any) -> tuple[int, dict[str, Any]]:
    """Status and answer of /api/embed."""
    answer = server.client.post("/api/embed", json={"model": MODEL, **body})
    return answer.status_code, answer.json()


def cosine(a: Any, b: Any) -> float:
    return float(np.dot(a, b) / np.linalg.norm(a) / np.linalg.norm(b))


@pytest.mark.spec(103)
def test_the_vectors_are_those_of_ollama(client: ollama.Client) -> None:
    one = client.embed(MODEL, SKY)
    assert (one.model, one.prompt_eval_count) == (MODEL, 8)
    assert one.total_duration >= one.load_duration > 0
    assert len(one.embeddings[0]) == 384
    assert np.linalg.norm(one.embeddings[0]) == pytest.approx(1, abs=1e-5)
    both = client.embed(MODEL, [SKY, GRASS])
    assert both.prompt_eval_count == 16
    for made, text in zip((one.embeddings[0], *both.embeddings), (SKY, SKY, GRASS), strict=True):
        assert cosine(made, GOLDEN["vectors"][text]) > 0.99
    old = client.embeddings(MODEL, SKY).embedding
    assert cosine(old, GOLDEN["unnormalised"][SKY]) > 0.99
    assert np.linalg.norm(old) == pytest.approx(np.linalg.norm(GOLDEN["unnormalised"][SKY]), rel=0.05)


def test_without_input_the_model_loads(server: Server, client: ollama.Client) -> None:
    client.generate(MODEL, keep_alive=0)
    assert [model.model for model in client.ps().models if model.model == f"{MODEL}:latest"] == []
    for empty in ({}, {"input": None}, {"input": ""}, {"input": []}):
        assert ask(server, **empty) == (200, {"model": MODEL, "embeddings": []})
    assert list(client.embeddings(MODEL, "").embedding) == []
    (found,) = (model for model in client.ps().models if model.model == f"{MODEL}:latest")
    assert (found.context_length, found.size_vram) == (512, 0)
    assert ask(server, input=["", "a"])[1]["prompt_eval_count"] == 2 + 3


@pytest.mark.spec(104, 105)
@pytest.mark.parametrize("truncate", [None, True])
def test_long_texts_lose_their_end(server: Server, truncate: bool | None) -> None:
    (why,) = ask(server, input="why")[1]["embeddings"]
    (cut,) = ask(server, input=SKY, truncate=truncate, options={"num_ctx": 3})[1]["embeddings"]
    assert cosine(why, cut) > 0.9999
    for num_ctx in (0, 1, 2):
        status, answer = ask(server, input=SKY, truncate=truncate, options={"num_ctx": num_ctx})
        assert status == 400
        assert answer["error"].startswith(f"input after truncation exceeds maximum context length (of {num_ctx} tokens")
    status, answer = ask(server, input=["a", LONG, "b"], truncate=truncate, options={"num_ctx": 30})
    assert (status, len(answer["embeddings"]), answer["prompt_eval_count"]) == (200, 3, 3 + 30 + 3)
    for words in (256, 512, 800):
        assert ask(server, input="test " * words)[1]["prompt_eval_count"] == min(words + 2, 512)


@pytest.mark.spec(104, 105)
def test_long_texts_that_may_not_be_cut(server: Server) -> None:
    too_long = "the input length exceeds the context length (8 tokens exceed the limit of 3; "
    for given in (SKY, ["a", SKY]):
        status, answer = ask(server, input=given, truncate=False, options={"num_ctx": 3})
        assert (status, answer["error"][: len(too_long)]) == (400, too_long)
    assert ask(server, input=SKY, truncate=False, options={"num_ctx": 16})[0] == 200
    answer = server.client.post("/api/embeddings", json={"model": MODEL, "prompt": LONG})
    assert answer.status_code == 500
    assert "the input length exceeds the context length" in answer.json()["error"]


def test_dimensions(server: Server) -> None:
    (whole,) = ask(server, input=SKY)[1]["embeddings"]
    (cut,) = ask(server, input=SKY, dimensions=64)[1]["embeddings"]
    assert len(cut) == 64
    assert np.linalg.norm(cut) == pytest.approx(1, abs=1e-5)
    assert cosine(cut, whole[:64]) > 0.999999
    assert len(ask(server, input=SKY, dimensions=10_000)[1]["embeddings"][0]) == 384


@pytest.mark.spec(21, 40)
def test_models_of_another_kind(server: Server) -> None:
    for path, body, status, text in (
        ("/api/embed", {"model": TINY, "input": "x"}, 501, "This server does not support embeddings. "),
        ("/api/embeddings", {"model": TINY, "prompt": "x"}, 500, "This server does not support embeddings. "),
        ("/api/rerank", {"model": MODEL, "query": "x", "documents": ["x"]}, 400, f'"{MODEL}" does not support rerank'),
        ("/api/generate", {"model": MODEL, "prompt": "x"}, 400, f'"{MODEL}" does not support generate'),
        ("/api/chat", {"model": MODEL, "messages": [{"role": "user"}]}, 400, f'"{MODEL}" does not support chat'),
        ("/api/embed", {"model": RANKER, "input": "x"}, 501, "This server does not support embeddings. "),
        ("/api/generate", {"model": RANKER, "prompt": "x"}, 400, f'"{RANKER}" does not support generate'),
        ("/api/embed", {"model": "X", "input": "x"}, 404, 'model "X" not found, try pulling it first'),
        ("/api/embeddings", {"model": "X", "prompt": "x"}, 404, 'model "X" not found, try pulling it first'),
        ("/api/embed", {"model": "x:cloud", "input": "x"}, 403, "ollama cloud is disabled"),
        ("/api/embed", {"model": MODEL, "input": "x", "options": {"num_ctx": "x"}}, 500, 'option "num_ctx" must be'),
    ):
        answer = server.client.post(path, json=body)
        assert answer.status_code == status, answer.text
        assert answer.json()["error"].startswith(text)
    answer = server.client.post("/api/embed", json={"model": TINY})
    assert (answer.status_code, answer.json()) == (200, {"model": TINY, "embeddings": []})


def test_show_and_the_command_line(server: Server, client: ollama.Client) -> None:
    shown = client.show(MODEL)
    assert shown.capabilities == ["embedding"]
    assert shown.modelinfo
    assert shown.modelinfo["bert.embedding_length"] == 384
    command = [sys.executable, "-m", "appliance"]
    run = {"env": server.environment, "stdin": subprocess.DEVNULL, "capture_output": True, "check": True, "text": True}
    vector = json.loads(subprocess.run([*command, "run", MODEL, SKY, "--dimensions", "8"], **run).stdout)  # type: ignore[call-overload]
    assert vector == ask(server, input=SKY, dimensions=8)[1]["embeddings"][0]
    text = subprocess.run([*command, "show", MODEL], **run).stdout  # type: ignore[call-overload]
    assert "embedding length    384" in text
    assert "kv cache" not in text


def rank(server: Server, *documents: str, **more: Any) -> tuple[int, dict[str, Any]]:
    """Status and answer of /api/rerank."""
    body = {"model": RANKER, "query": "the sky is", "documents": documents, **more}
    answer = server.client.post("/api/rerank", json=body)
    return answer.status_code, answer.json()


def test_documents_are_ranked(server: Server, client: ollama.Client) -> None:
    assert client.show(RANKER).capabilities == ["rerank"]
    texts = ("blue", "a of and", "", "the sky is blue and a")
    status, answer = rank(server, *texts)
    assert status == 200
    assert answer["usage"] == {"prompt_tokens": 4 * 6 + 1 + 3 + 0 + 6, "total_tokens": 34}
    scores = [result["relevance_score"] for result in answer["results"]]
    assert scores == sorted(scores, reverse=True)
    assert 0 < scores[-1] < scores[0] < 1
    for result in answer["results"]:
        text = result["document"]["text"]
        assert text == texts[result["index"]]
        (alone,) = rank(server, text)[1]["results"]
        assert alone["relevance_score"] == pytest.approx(result["relevance_score"], abs=1e-3)
    _, best = rank(server, *texts, top_n=2, return_documents=False)
    assert [result["index"] for result in best["results"]] == [result["index"] for result in answer["results"][:2]]
    assert "document" not in best["results"][0]


def test_documents_that_are_too_long(server: Server) -> None:
    long = "blue " * 100  # of 48 tokens that the model may read
    assert rank(server, long)[1]["usage"]["prompt_tokens"] == 48
    status, answer = rank(server, long, truncate=False)
    assert (status, answer["error"][:47]) == (400, "the input length exceeds the context length (10")
    assert rank(server, "blue", query=long)[0] == 400


def stats_of(server: Server) -> dict[str, Any]:
    models = server.client.get("/api/stats").json()["models"]
    return next((model for model in models if model["name"] == f"{MODEL}:latest"), {})


def await_stats(server: Server, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    deadline = time.monotonic() + PATIENCE_S
    while not condition(stats := stats_of(server)):
        assert time.monotonic() < deadline, stats
        time.sleep(0.005)
    return stats


def send(server: Server) -> socket.socket:
    """Ask for more than anybody waits for."""
    text = json.dumps({"model": MODEL, "input": MANY})
    head = f"POST /api/embed HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(text)}\r\n\r\n"
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S)
    connection.sendall((head + text).encode())
    return connection


def test_who_leaves_frees_the_slot_and_one_more_than_may_wait_is_refused(server: Server) -> None:
    ask(server)
    before = stats_of(server)["tokens"]["evaluated"]
    running = send(server)
    await_stats(server, lambda stats: stats["slots"]["busy"] == 1)
    waiting = send(server)
    stats = await_stats(server, lambda stats: stats["waiting"] == 1)
    assert stats["queue"][0]["prompt_tokens"] > len(MANY)
    status, answer = ask(server, input="x")
    assert (status, answer) == (503, {"error": BUSY})
    waiting.close()
    await_stats(server, lambda stats: stats["waiting"] == 0)
    running.close()
    await_stats(server, lambda stats: stats["slots"]["busy"] == 0)
    assert stats_of(server)["tokens"]["evaluated"] == before, "neither came to its end"
    assert ask(server, input=SKY)[0] == 200
