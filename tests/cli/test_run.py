"""`run`: one answer, and the conversation through a pseudo-terminal."""

from __future__ import annotations

import base64
import io
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import SHOW, Outcome, Server

Run = Callable[..., Outcome]


@pytest.fixture
def piped(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Lays down what comes through standard input."""
    return lambda text: monkeypatch.setattr(sys, "stdin", io.StringIO(text))


def test_one_answer(model: Server, appliance: Run, piped: Callable[[str], None]) -> None:
    piped("")
    assert appliance("run", "m", "Hi", "you") == Outcome(0, "Hello there\n\n", "")
    assert model.asked("/api/generate") == [{"model": "m", "prompt": "Hi you"}]


def test_what_is_piped_in_comes_first(model: Server, appliance: Run, piped: Callable[[str], None]) -> None:
    piped("some text")
    assert appliance("run", "m", "Summarise this").code == 0
    assert model.asked("/api/generate")[0]["prompt"] == "some text Summarise this"


def test_flags_reach_the_request(model: Server, appliance: Run, piped: Callable[[str], None]) -> None:
    piped("")
    outcome = appliance(
        "run", "m", "--keepalive", "1m30s", "--think", "Why?", "--format", '{"type": "object"}', "--verbose"
    )
    assert model.asked("/api/generate") == [
        {"model": "m", "prompt": "Why?", "keep_alive": 90, "think": True, "format": {"type": "object"}}
    ]
    assert outcome.err.splitlines()[0] == "total duration:       2s"
    assert "eval rate:            2.00 tokens/s" in outcome.err


def test_forever_is_sent_as_a_negative_number(model: Server, appliance: Run, piped: Callable[[str], None]) -> None:
    piped("")
    appliance("run", "m", "Hi", "--keepalive=-1", "--think=low")
    assert model.asked("/api/generate")[0]["keep_alive"] == -1
    assert model.asked("/api/generate")[0]["think"] == "low"


def test_a_missing_model(server: Server, appliance: Run, piped: Callable[[str], None]) -> None:
    piped("")
    server.says("POST", "/api/show", {"error": "model 'm:latest' not found"}, status=404)
    server.says("POST", "/api/pull", {"status": "pulling manifest"}, {"error": "file does not exist"})
    assert appliance("run", "m", "Hi") == Outcome(1, "", "pulling manifest\nError: file does not exist\n")
    assert server.asked("/api/pull") == [{"model": "m", "insecure": False}]
    server.says("POST", "/api/pull", {"status": "pulling manifest"}, {"status": "success"})
    appliance("run", "m", "Hi", "--insecure")
    assert server.asked("/api/pull")[-1] == {"model": "m", "insecure": True}
    assert [path for _, path, _ in server.requests][-2:] == ["/api/pull", "/api/show"]  # and goes on with the model


def test_an_error_in_the_middle_of_an_answer(server: Server, appliance: Run, piped: Callable[[str], None]) -> None:
    piped("")
    server.says("POST", "/api/show", SHOW)
    server.says("POST", "/api/generate", {"response": "Hel"}, {"error": "out of memory"})
    assert appliance("run", "m", "Hi") == Outcome(1, "Hel\n\n", "Error: out of memory\n")


def test_a_server_that_dies_while_it_answers(server: Server, appliance: Run, piped: Callable[[str], None]) -> None:
    piped("")
    server.says("POST", "/api/show", SHOW)
    server.cut("/api/generate", {"response": "Hel"})
    outcome = appliance("run", "m", "Hi")
    assert (outcome.code, outcome.out) == (1, "Hel\n\n")
    assert outcome.err.startswith("Error: the server's answer broke off: ")


EMBEDDER = {**SHOW, "capabilities": ["embedding"]}


def test_the_vector_of_a_text(server: Server, appliance: Run, piped: Callable[[str], None]) -> None:
    server.says("POST", "/api/show", EMBEDDER)
    server.says("POST", "/api/embed", {"model": "e", "embeddings": [[0.6, -0.8, 1e-7]], "prompt_eval_count": 3})
    piped("")
    assert appliance("run", "e", "some", "text") == Outcome(0, "[0.6,-0.8,1e-07]\n", "")
    piped("piped")
    appliance("run", "e", "text", "--truncate=false", "--dimensions", "2", "--keepalive", "1m")
    piped("")
    appliance("run", "e", "--truncate", "text")
    assert server.asked("/api/embed") == [
        {"model": "e", "input": "some text"},
        {"model": "e", "input": "piped text", "truncate": False, "dimensions": 2, "keep_alive": 60},
        {"model": "e", "input": "text", "truncate": True},
    ]


def test_an_embedding_model_needs_a_text(server: Server, appliance: Run, piped: Callable[[str], None]) -> None:
    server.says("POST", "/api/show", EMBEDDER)
    piped("")
    assert appliance("run", "e") == Outcome(1, "", 'Error: embedding models need a text: appliance run e "your text"\n')
    assert server.asked("/api/embed") == []


def test_without_standard_input(appliance: Run, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.says("POST", "/api/show", {})
    server.says("POST", "/api/generate", {"response": "Hi", "done": True})
    monkeypatch.setattr("sys.stdin", None)
    outcome = appliance("run", "m", "hello")
    assert (outcome.code, outcome.out) == (0, "Hi\n\n")


def test_standard_input_that_is_no_text(appliance: Run, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\xff"), encoding="utf-8"))
    outcome = appliance("run", "m", "hello")
    assert (outcome.code, outcome.err) == (1, "Error: standard input is not text in utf-8\n")


PNG = b"\x89PNG\r\n\x1a\n and so on"


def test_images_are_shown_to_a_model_that_sees(
    model: Server, appliance: Run, piped: Callable[[str], None], tmp_path: Path
) -> None:
    image, other = tmp_path / "my cat.png", tmp_path / "dog.jpg"
    image.write_bytes(PNG)
    other.write_bytes(b"\xff\xd8\xff")
    escaped = str(image).replace(" ", "\\ ")
    piped("")
    model.says("POST", "/api/show", SHOW | {"capabilities": ["completion", "vision"]})
    outcome = appliance("run", "m", f"What is in {escaped} and '{other}', not in /none.png?")
    assert outcome.err == f"Added image '{image}'\nAdded image '{other}'\n"
    (asked,) = model.asked("/api/generate")
    assert asked["prompt"] == "What is in  and , not in /none.png?"
    assert asked["images"] == [base64.b64encode(PNG).decode(), "/9j/"]


def test_paths_of_images_are_text_to_a_model_that_does_not_see(
    model: Server, appliance: Run, piped: Callable[[str], None], tmp_path: Path
) -> None:
    (tmp_path / "cat.png").write_bytes(PNG)
    piped("")
    appliance("run", "m", f"Where is {tmp_path}/cat.png?")
    assert model.asked("/api/generate") == [{"model": "m", "prompt": f"Where is {tmp_path}/cat.png?"}]


def test_what_only_looks_like_an_image_is_refused(
    model: Server, appliance: Run, piped: Callable[[str], None], tmp_path: Path
) -> None:
    (tmp_path / "cat.png").write_text("meow")
    piped("")
    model.says("POST", "/api/show", SHOW | {"capabilities": ["completion", "vision"]})
    outcome = appliance("run", "m", f"{tmp_path}/cat.png")
    assert outcome == Outcome(1, "", f"Error: {tmp_path}/cat.png: not a JPEG, PNG or WebP image\n")
    assert model.asked("/api/generate") == []
