"""The conversation of `run`, through a pseudo-terminal."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.cli.history import HISTORY_LINES, read_history, remember
from appliance.cli.reader import read_entry

from .conftest import SHOW, Server
from .terminal import Terminal


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


@contextlib.contextmanager
def talking(**environment: str) -> Iterator[Terminal]:
    """A conversation with `m`, ended by the test or here."""
    shown = Terminal(**environment)
    try:
        yield shown
    finally:
        if shown.process.poll() is None:
            shown.process.kill()
        shown.process.wait(timeout=10)
        os.close(shown.fd)


@pytest.fixture
def terminal(model: Server) -> Iterator[Terminal]:
    with talking() as shown:
        yield shown


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
    assert terminal.says("/set parameter top_k many") == "Error: invalid int value [many]"
    assert terminal.says("/set parameter top_k 1 2") == "Error: parameter 'top_k' takes one value"
    assert terminal.says("/set system Be brief.") == "Set system message."
    assert terminal.says("/set format json") == "Set format to 'json' mode."
    assert terminal.says("/set think low") == 'Error: "m" does not support thinking'
    assert terminal.says("/set nothink") == "Set 'nothink' mode."
    assert terminal.says('/set parameter stop "the end" b').startswith("Set parameter 'stop' to 'the end, b'")
    assert "temperature <float>" in terminal.says("/set parameter")
    assert terminal.says("/set format xml") == "Error: the format is missing or unknown; there is '/set format json'"
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
            "think": False,
            "options": {"temperature": 0.5, "stop": ["the end", "b"]},
        }
    ]
    assert model.asked("/api/create") == [
        {
            "model": "mine",
            "from": "m",
            "stream": False,
            "system": "Be brief.",
            "parameters": {"temperature": 0.5, "stop": ["the end", "b"]},
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
    for _ in range(30):  # Python's readline overlooks a signal in the moment before it waits for keys
        terminal.type("\x03")
        with contextlib.suppress(AssertionError):
            terminal.until("Use Ctrl + d or /bye to exit.\n", timeout_s=4)
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


def test_history_is_kept_for_the_owner_only(model: Server, terminal: Terminal, tmp_path: Path) -> None:
    terminal.says("a question to remember")
    history = tmp_path / "edge-appliance" / "history"
    assert history.read_text() == "a question to remember\n"
    assert history.stat().st_mode & 0o777 == 0o600
    remember(history, "said elsewhere meanwhile\nin two lines")
    terminal.says("the last one")
    assert history.read_text().splitlines() == [
        "a question to remember",
        "said elsewhere meanwhile",
        "in two lines",
        "the last one",
    ]
    assert [each.name for each in history.parent.iterdir()] == ["history"]
    with talking() as again:
        again.until(">>> ")
        again.type("\x1b[A\x1b[A\x1b[A\n")  # up, up, up
        again.until("said elsewhere meanwhile")
        again.until("Hello there")
    assert model.asked("/api/chat")[-1]["messages"][-1]["content"] == "said elsewhere meanwhile"


def test_the_oldest_history_goes(tmp_path: Path) -> None:
    history = tmp_path / "history"
    history.write_text("".join(f"{number}\n" for number in range(HISTORY_LINES)))
    remember(history, "new")
    assert read_history(history) == [*map(str, range(1, HISTORY_LINES)), "new"]


def test_no_history_when_it_is_not_wanted(model: Server, tmp_path: Path) -> None:
    history = tmp_path / "edge-appliance" / "history"
    with talking(OLLAMA_NOHISTORY="1") as shown:
        shown.says("a secret")
        assert not history.exists()
        assert shown.says("/set history") == "Set 'history' mode."
        shown.says("no secret")
        assert shown.says("/set nohistory") == "Set 'nohistory' mode."
        shown.says("a secret")
    assert history.read_text() == "no secret\n/set nohistory\n"


def test_a_message_of_several_lines(model: Server, terminal: Terminal) -> None:
    terminal.until(">>> ")
    terminal.type('"""one\n')
    terminal.until("... ")
    terminal.type('two"""\n')
    terminal.until("Hello there")
    assert model.asked("/api/chat")[-1]["messages"][-1]["content"] == "one\ntwo"


def test_lines_that_are_pasted_are_one_message(model: Server) -> None:
    with talking(TERM="xterm") as shown:
        shown.until("\x1b[?2004h")  # the prompt wants to know what is pasted
        shown.type("\x1b[200~one\ntwo\x1b[201~\n")
        shown.until("Hello")
    assert model.asked("/api/chat")[-1]["messages"][-1]["content"] == "one\ntwo"


def test_control_g_opens_an_editor(model: Server, tmp_path: Path) -> None:
    editor = tmp_path / "editor"
    editor.write_text('#!/bin/sh\ngrep -q "a draft" "$1" && printf "edited\\ntext\\n" > "$1"\n')
    editor.chmod(0o755)
    with talking(OLLAMA_EDITOR=str(editor)) as shown:
        shown.until(">>> ")
        shown.type("a draft\x07")
        shown.until("edited")
        shown.type(" and more\n")
        shown.until("Hello there")
    assert model.asked("/api/chat")[-1]["messages"][-1]["content"] == "edited\ntext and more"
    assert not [line for line in read_history(tmp_path / "edge-appliance" / "history") if "\x1f" in line]


def test_an_answer_is_wrapped_and_thinking_is_grey_on_a_terminal(model: Server) -> None:
    words = " ".join(["word"] * 12)
    model.says("POST", "/api/chat", {"message": {"thinking": "Hm."}}, {"message": {"content": words}, "done": True})
    with talking(TERM="xterm", COLUMNS="40") as shown:
        shown.until(">>> ")
        shown.type("Hi\n")
        text = shown.until(">>> ")
        assert "\x1b[90mThinking...\nHm.\n...done thinking.\n\n\x1b[39m" in text
        assert f"{'word ' * 7}\n{'word ' * 5}".strip() in text.replace("\x1b[K", "")
        shown.type("/set nowordwrap\n")
        shown.until(">>> ")
        shown.type("Hi\n")
        assert words in shown.until(">>> ")
    with talking(TERM="xterm", NO_COLOR="1") as shown:
        shown.until(">>> ")
        shown.type("Hi\n")
        assert "\x1b[90m" not in shown.until("...done thinking.")


def test_a_model_that_thinks_and_one_that_brings_a_conversation(model: Server) -> None:
    messages = [{"role": "user", "content": "Who are you?"}, {"role": "assistant", "content": "A pirate."}]
    model.says("POST", "/api/show", SHOW | {"capabilities": ["completion", "thinking"], "messages": messages})
    with talking() as shown:
        assert "Who are you?\nA pirate.\n\n" in shown.until("\n\n")
        assert shown.says("/set think low") == "Set 'think' mode to 'low'."
        assert shown.says("/set think much").startswith('Error: invalid think value: "much"')
        shown.says("Hi")
    assert model.asked("/api/chat") == [
        {"model": "m", "messages": [*messages, {"role": "user", "content": "Hi"}], "think": "low"}
    ]


def test_loading_a_model_that_is_not_there_changes_nothing(model: Server, terminal: Terminal) -> None:
    terminal.says("Hi")
    model.says("POST", "/api/show", {"error": "model 'x' not found"}, status=404)
    assert terminal.says("/load x") == "Loading model 'x'\nError: model 'x' not found"
    terminal.says("Again")
    last = model.asked("/api/chat")[-1]
    assert last["model"] == "m"
    assert len(last["messages"]) == 3


def test_a_path_is_no_command(model: Server, terminal: Terminal) -> None:
    terminal.says("/etc/hosts is what?")
    assert model.asked("/api/chat")[-1]["messages"][-1]["content"] == "/etc/hosts is what?"
