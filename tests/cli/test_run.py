"""`run`: one answer, and the conversation through a pseudo-terminal."""

from __future__ import annotations

import contextlib
import io
import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.cli.reader import read_entry

from .conftest import Outcome, Server

Run = Callable[..., Outcome]
SHOW = {"details": {"family": "llama", "parameter_size": "134.52M", "quantization_level": "Q4_1"}, "model_info": None}
DONE = {"done": True, "done_reason": "stop", "total_duration": 2_000_000_000, "eval_count": 2, "eval_duration": 10**9}


@pytest.fixture
def model(server: Server) -> Server:
    """A server with the model `m`, which always says "Hello there"."""
    server.says("POST", "/api/show", SHOW)
    server.says("POST", "/api/generate", {"response": "Hello"}, {"response": " there"}, {"response": "", **DONE})
    server.says(
        "POST",
        "/api/chat",
        {"message": {"role": "assistant", "content": "Hello"}},
        {"message": {"role": "assistant", "content": " there"}},
        {"message": {"role": "assistant", "content": ""}, **DONE},
    )
    return server


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
    assert appliance("run", "m", "Hi") == Outcome(1, "", "Error: model 'm:latest' not found\n")


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


def entry(*lines: str) -> str:
    """What is read when these lines are typed; every one must be consumed."""
    rest = list(lines)
    text = read_entry(lambda _: rest.pop(0))
    assert rest == []
    return text


def test_entries_of_several_lines() -> None:
    assert entry("plain") == "plain"
    assert entry('"""one', "two", 'three"""') == "one\ntwo\nthree"
    assert entry('"""all at once"""') == "all at once"
    assert entry('"""', "one", '"""') == "\none\n"
    assert entry('/set system """Be', 'brief."""') == "/set system Be\nbrief."
    assert entry('say """x""" twice') == 'say """x""" twice'


class Terminal:
    """`appliance run m` on a pseudo-terminal."""

    def __init__(self, *arguments: str) -> None:
        self.fd, child = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "appliance", "run", "m", *arguments],
            stdin=child,
            stdout=child,
            stderr=child,
            env={**os.environ, "TERM": "dumb", "COLUMNS": "80"},
            start_new_session=True,
            preexec_fn=_take_terminal,
        )
        os.close(child)
        self.seen = ""

    def until(self, text: str, timeout_s: float = 30) -> str:
        """Wait for `text`; returns what came up to and with it. What follows is kept for the next call."""
        deadline = time.monotonic() + timeout_s
        while text not in self.seen:
            ready, _, _ = select.select([self.fd], [], [], max(0, deadline - time.monotonic()))
            assert ready, f"{text!r} did not come, only {self.seen!r}"
            try:
                self.seen += os.read(self.fd, 4096).decode().replace("\r\n", "\n")
            except OSError:
                raise AssertionError(f"ended before {text!r}, after {self.seen!r}") from None
        before, _, self.seen = self.seen.partition(text)
        return before + text

    def type(self, text: str) -> None:
        """Press these keys."""
        os.write(self.fd, text.encode())

    def says(self, line: str) -> str:
        """Type a line at the prompt; returns what is printed before the next one."""
        self.until(">>> ")
        self.type(f"{line}\n")
        self.until(line)
        answer = self.until("\n>>> ")
        self.seen = ">>> " + self.seen
        return answer.removesuffix(">>> ").strip()


def _take_terminal() -> None:
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@pytest.fixture
def terminal(model: Server) -> Iterator[Terminal]:
    """A conversation with `m`, ended by the test or here."""
    shown = Terminal()
    yield shown
    if shown.process.poll() is None:
        shown.process.kill()
    shown.process.wait(timeout=10)
    os.close(shown.fd)


def test_a_conversation(model: Server, terminal: Terminal) -> None:
    assert terminal.says("Hi") == "Hello there"
    assert terminal.says("And?") == "Hello there"
    terminal.until(">>> ")
    terminal.type("/bye\n")
    assert terminal.process.wait(timeout=20) == 0
    assert model.asked("/api/generate") == [{"model": "m", "stream": False}]  # the load at the start
    first, second = model.asked("/api/chat")
    assert first["messages"] == [{"role": "user", "content": "Hi"}]
    assert second["messages"] == [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello there"},
        {"role": "user", "content": "And?"},
    ]


def test_commands_of_the_conversation(model: Server, terminal: Terminal) -> None:
    model.says("POST", "/api/create", {"status": "success"})
    model.says("GET", "/api/tags", {"models": []})
    assert terminal.says("/set parameter temperature 0.5") == "Set parameter 'temperature' to '0.5'"
    assert terminal.says("/set parameter stop a b") == "Set parameter 'stop' to 'a, b'"
    assert terminal.says("/set parameter top_k many") == "Error: invalid int value [many]"
    assert terminal.says("/set parameter top_k 1 2") == "Error: parameter 'top_k' takes one value"
    assert terminal.says("/set system Be brief.") == "Set system message."
    assert terminal.says("/set format json") == "Set format to 'json' mode."
    assert terminal.says("/set think low") == "Set 'think' mode to 'low'."
    assert terminal.says("/set verbose") == "Set 'verbose' mode."
    assert "total duration:       2s" in terminal.says("Hi")
    assert terminal.says("/set quiet") == "Set 'quiet' mode."
    assert terminal.says("/show system") == "Be brief."
    assert terminal.says("/show template") == "No prompt template was specified for this model."
    assert "temperature                    0.5" in terminal.says("/show parameters")
    assert "architecture    llama" in terminal.says("/show info")
    assert terminal.says("/list") == "NAME    ID    SIZE    MODIFIED"
    assert terminal.says("/save mine") == "Created new model 'mine'"
    assert terminal.says("/clear") == "Cleared session context"
    assert terminal.says("/load m") == "Loading model 'm'"
    assert "/set parameter ..." in terminal.says("/? set")
    assert terminal.says("/dance") == "Unknown command '/dance'. Type /? for help"
    assert model.asked("/api/chat") == [
        {
            "model": "m",
            "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
            "format": "json",
            "think": "low",
            "options": {"temperature": 0.5, "stop": ["a", "b"]},
        }
    ]
    assert model.asked("/api/create") == [
        {
            "model": "mine",
            "from": "m",
            "stream": False,
            "system": "Be brief.",
            "parameters": {"temperature": 0.5, "stop": ["a", "b"]},
            "messages": [
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "content": "Hello there"},
            ],
        }
    ]


def test_an_error_ends_the_turn_and_not_the_conversation(model: Server, terminal: Terminal) -> None:
    model.says("POST", "/api/chat", {"error": "model runner has unexpectedly stopped"}, status=500)
    assert terminal.says("Hi") == "Error: model runner has unexpectedly stopped"
    model.says("POST", "/api/chat", {"message": {"content": "Back"}, "done": True})
    assert terminal.says("Again") == "Back"
    assert model.asked("/api/chat")[-1]["messages"] == [{"role": "user", "content": "Again"}]


def test_control_c_and_control_d_at_the_prompt(terminal: Terminal) -> None:
    terminal.until(">>> ")
    for _ in range(10):  # Python's readline overlooks a signal in the moment before it waits for keys
        terminal.type("\x03")
        with contextlib.suppress(AssertionError):
            terminal.until("Use Ctrl + d or /bye to exit.\n", timeout_s=2)
            break
    else:
        pytest.fail("Ctrl+C was not answered")
    terminal.until(">>> ")
    terminal.type("\x04")
    assert terminal.process.wait(timeout=20) == 0


def test_control_c_stops_the_answer(model: Server, terminal: Terminal) -> None:
    stopped: list[Any] = []
    model.stall("/api/chat", {"message": {"content": "Once upon"}}, stopped)
    terminal.until(">>> ")
    terminal.type("Tell me a story\n")
    terminal.until("Once upon")
    terminal.type("\x03")
    terminal.until(">>> ")
    model.says("POST", "/api/chat", {"message": {"content": "Fine"}, "done": True})
    terminal.seen = ">>> "
    assert terminal.says("Stop") == "Fine"
    assert model.asked("/api/chat")[-1]["messages"][1] == {"role": "assistant", "content": "Once upon"}
    assert stopped == ["client gone"]


def test_history_is_kept_for_the_owner_only(terminal: Terminal, tmp_path: Path) -> None:
    terminal.says("a question to remember")
    history = tmp_path / "edge-appliance" / "history"
    assert history.read_text().splitlines()[-1] == "a question to remember"
    assert history.stat().st_mode & 0o777 == 0o600


def test_no_history_when_it_is_not_wanted(model: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OLLAMA_NOHISTORY", "1")
    shown = Terminal()
    shown.says("a secret")
    shown.type("\x04")
    assert shown.process.wait(timeout=20) == 0
    os.close(shown.fd)
    assert not (tmp_path / "edge-appliance" / "history").exists()


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
