"""What shells are told when the Tab key is pressed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import Outcome, Server

Run = Callable[..., Outcome]
MODELS = {"models": [{"name": "smollm2:135m"}, {"name": "smollm2:1.7b"}, {"name": "Qwen3:8b"}]}

# Bash's own completion, called as readline would call it with this line before the cursor.
BASH = """
compopt() { :; }
eval "$SCRIPT"
COMP_LINE=$1 COMP_POINT=${#1}
read -ra COMP_WORDS <<< "$1"
_appliance_completion "$PROGRAM" "${1##* }" ""
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture
def complete(appliance: Run, tmp_path: Path) -> Callable[[str], set[str]]:
    """What bash offers after a line."""
    script = appliance("completion", "bash").out
    program = tmp_path / "appliance"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m appliance "$@"\n')
    program.chmod(0o755)

    def offers(line: str) -> set[str]:
        environ = {**os.environ, "SCRIPT": script, "PROGRAM": str(program)}
        command = ["bash", "-c", BASH, "bash", line]
        result = subprocess.run(
            command, env=environ, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True
        )
        assert result.stderr == ""
        return set(result.stdout.split())

    return offers


def test_commands_flags_and_files(server: Server, complete: Callable[[str], set[str]], tmp_path: Path) -> None:
    assert complete("appliance s") == {"show", "serve", "stop"}
    assert complete("appliance run --key") == set()
    assert complete("appliance run --keep") == {"--keepalive"}
    (tmp_path / "Modelfile").touch()
    assert complete("appliance create new -f Mo") == {"Modelfile"}


def test_models(server: Server, complete: Callable[[str], set[str]], tmp_path: Path) -> None:
    server.says("GET", "/api/tags", MODELS)
    server.says("GET", "/api/ps", {"models": MODELS["models"][:1]})
    assert complete("appliance run ") == {"smollm2:135m", "smollm2:1.7b", "Qwen3:8b"}
    assert complete("appliance show q") == {"Qwen3:8b"}
    assert complete("appliance show smollm2:") == {"135m", "1.7b"}  # the colon ends a word to bash
    assert complete("appliance rm Qwen3:8b ") == {"smollm2:135m", "smollm2:1.7b"}
    assert complete("appliance stop ") == {"smollm2:135m"}
    (tmp_path / "small.gguf").touch()
    assert complete("appliance inspect sm") == {"smollm2:135m", "smollm2:1.7b", "small.gguf"}


def test_nothing_is_said_when_no_server_answers(
    complete: Callable[[str], set[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMA_HOST", "127.0.0.1:1")
    assert complete("appliance run ") == set()


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells(server: Server, appliance: Run, monkeypatch: pytest.MonkeyPatch, shell: str) -> None:
    server.says("GET", "/api/tags", MODELS)
    assert "_APPLIANCE_COMPLETE" in appliance("completion", shell).out
    monkeypatch.setenv("_APPLIANCE_COMPLETE", f"{shell}_complete")
    monkeypatch.setenv("COMP_WORDS", "appliance show smollm2:1")
    monkeypatch.setenv("COMP_CWORD", {"zsh": "2", "fish": "smollm2:1"}[shell])
    lines = appliance().out.splitlines()
    assert (
        lines
        == {
            "zsh": ["plain", "smollm2:135m", "_", "plain", "smollm2:1.7b", "_"],
            "fish": ["plain,smollm2:135m", "plain,smollm2:1.7b"],
        }[shell]
    )


def test_a_shell_that_is_not_known(appliance: Run) -> None:
    assert appliance("completion", "csh").err.startswith("Error: Invalid value for")
