"""Each command against a scripted server: what it asks, what it prints, how it ends."""

from __future__ import annotations

import io
import socket
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from appliance import __version__
from appliance.cli import client as client_module
from appliance.cli.client import server_url
from appliance.cli.list import models_table
from appliance.cli.ps import loaded_table
from appliance.config import load_settings

from .conftest import Outcome, Server

Run = Callable[..., Outcome]
NOW = datetime(2026, 8, 21, 12, 0, tzinfo=UTC)
DIGEST = "a80c4f17acd55265feec403c7aef86be0c25983ab279d83f3bcd3abbcb5b8b72"


def model(name: str, size: int = 2_019_393_189, **more: object) -> dict[str, object]:
    modified = (NOW - timedelta(days=2)).isoformat()
    return {"name": name, "model": name, "digest": DIGEST, "size": size, "modified_at": modified, **more}


@pytest.mark.spec(96)
def test_list_is_byte_exact() -> None:
    models = [model("llama3.2:latest"), model("Qwen3:8b", 523_000_000)]
    assert models_table(models, "", NOW) == (
        "NAME               ID              SIZE      MODIFIED   \n"
        "llama3.2:latest    a80c4f17acd5    2.0 GB    2 days ago    \n"
        "Qwen3:8b           a80c4f17acd5    523 MB    2 days ago    \n"
    )
    assert models_table(models, "QWEN", NOW).count("\n") == 2


def test_list_shows_no_size_of_a_remote_model() -> None:
    assert "a80c4f17acd5    -       2 days ago" in models_table([model("big", remote_model="big")], "", NOW)


def test_ps_is_byte_exact() -> None:
    loaded = model("llama3.2:latest", 2_800_000_000, size_vram=0, context_length=4096)
    soon = loaded | {"expires_at": (NOW + timedelta(minutes=4, seconds=9)).isoformat()}
    assert loaded_table([soon], "", NOW) == (
        "NAME               ID              SIZE      PROCESSOR    CONTEXT    UNTIL              \n"
        "llama3.2:latest    a80c4f17acd5    2.8 GB    100% CPU     4096       4 minutes from now    \n"
    )
    past = loaded | {"expires_at": (NOW - timedelta(seconds=1)).isoformat()}
    forever = loaded | {"expires_at": "2318-12-02T09:30:00.123456789Z"}
    assert "Stopping..." in loaded_table([past], "", NOW)
    assert "Forever" in loaded_table([forever], "", NOW)


@pytest.mark.spec(96)
@pytest.mark.parametrize("command", ["list", "ls"])
def test_list(server: Server, appliance: Run, command: str) -> None:
    server.says("GET", "/api/tags", {"models": [model("a:latest"), model("b:latest")]})
    outcome = appliance(command, "B")
    assert outcome.code == 0
    assert [line.split()[0] for line in outcome.out.splitlines()] == ["NAME", "b:latest"]


def test_ps(server: Server, appliance: Run) -> None:
    server.says("GET", "/api/ps", {"models": []})
    assert appliance("ps").out == "NAME    ID    SIZE    PROCESSOR    CONTEXT    UNTIL \n"


def test_cp(server: Server, appliance: Run) -> None:
    server.says("POST", "/api/copy")
    assert appliance("cp", "a", "b") == Outcome(0, "copied 'a' to 'b'\n", "")
    assert server.asked("/api/copy") == [{"source": "a", "destination": "b"}]


@pytest.mark.spec(96)
def test_rm_unloads_and_deletes_each(server: Server, appliance: Run) -> None:
    server.says("POST", "/api/generate", {"done": True, "done_reason": "unload"})
    server.says("DELETE", "/api/delete")
    assert appliance("rm", "a", "b") == Outcome(0, "deleted 'a'\ndeleted 'b'\n", "")
    assert [(each["model"], each["keep_alive"]) for each in server.asked("/api/generate")] == [("a", 0), ("b", 0)]
    assert server.asked("/api/delete") == [{"model": "a"}, {"model": "b"}]


def test_rm_of_a_missing_model(server: Server, appliance: Run) -> None:
    server.says("POST", "/api/generate", {"error": "model 'a' not found"}, status=404)
    server.says("DELETE", "/api/delete", {"error": "model 'a' not found"}, status=404)
    assert appliance("rm", "a") == Outcome(1, "", "Error: model 'a' not found\n")


def test_rm_goes_on_when_a_model_cannot_be_stopped(server: Server, appliance: Run) -> None:
    server.says("POST", "/api/generate", {"error": "busy"}, status=500)
    server.says("DELETE", "/api/delete")
    outcome = appliance("rm", "a")
    assert outcome == Outcome(0, "deleted 'a'\n", "Warning: unable to stop model 'a'\n")


def test_stop(server: Server, appliance: Run) -> None:
    server.says("POST", "/api/generate", {"done": True, "done_reason": "unload"})
    assert appliance("stop", "a") == Outcome(0, "", "")
    server.says("POST", "/api/generate", {"error": "model 'a' not found"}, status=404)
    assert appliance("stop", "a") == Outcome(1, "", 'Error: couldn\'t find model "a" to stop\n')


@pytest.mark.spec(96)
@pytest.mark.parametrize("command", ["pull", "push"])
def test_pull_and_push(server: Server, appliance: Run, command: str) -> None:
    layer = {"status": f"{command}ing {DIGEST[:12]}", "digest": f"sha256:{DIGEST}", "total": 20}
    events = [{"status": "retrieving manifest"}, layer, {**layer, "completed": 20}, {"status": "success"}]
    server.says("POST", f"/api/{command}", *events)
    outcome = appliance(command, "host/team/m:1", "--insecure")
    assert (outcome.code, outcome.out) == (0, "")
    assert [line.split(":")[0] for line in outcome.err.splitlines()] == [
        "retrieving manifest", f"{command}ing {DIGEST[:12]}", "success"
    ]  # fmt: skip
    assert server.asked(f"/api/{command}") == [{"model": "host/team/m:1", "insecure": True}]
    server.says("POST", f"/api/{command}", {"status": "retrieving manifest"}, {"error": "unqualified name: m"})
    assert appliance(command, "m") == Outcome(1, "", "retrieving manifest\nError: unqualified name: m\n")
    assert server.asked(f"/api/{command}")[1] == {"model": "m", "insecure": False}


@pytest.mark.parametrize("part", ["license", "modelfile", "parameters", "template", "system"])
def test_show_one_part(server: Server, appliance: Run, part: str) -> None:
    server.says("POST", "/api/show", {part: "the text", "details": {}})
    assert appliance("show", "a", f"--{part}") == Outcome(0, "the text\n", "")


def test_show(server: Server, appliance: Run) -> None:
    server.says("POST", "/api/show", {"details": {"family": "llama", "parameter_size": "1B"}})
    assert "    architecture    llama    \n" in appliance("show", "a", "-v").out
    assert server.asked("/api/show") == [{"model": "a", "verbose": True}]


def test_show_two_parts_is_an_error(server: Server, appliance: Run) -> None:
    outcome = appliance("show", "a", "--license", "--system")
    assert outcome.code == 1
    assert outcome.err == (
        "Error: only one of '--license', '--modelfile', '--parameters', '--system', or '--template' can be specified\n"
    )
    assert server.requests == []


def test_version(server: Server, appliance: Run) -> None:
    server.says("GET", "/api/version", {"version": "0.33.0"})
    outcome = appliance("--version")
    assert outcome.code == 0
    assert outcome.out.startswith("appliance version is ")
    assert outcome.out.endswith("Ollama API version is 0.33.0\n")
    assert outcome.err == ""
    server.says("GET", "/api/stats", {"version": "9.9", "models": []})
    outcome = appliance("-v")
    assert outcome.out == "appliance version is 9.9\nOllama API version is 0.33.0\n"
    assert outcome.err == f"Warning: client version is {__version__}\n"


def test_no_server(appliance: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_HOST", "127.0.0.1:1")
    outcome = appliance("list")
    assert outcome == Outcome(
        1, "", "Error: could not connect to appliance server at http://127.0.0.1:1, run 'appliance serve' to start it\n"
    )
    assert "Warning: could not connect" in appliance("-v").err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("fly",), "Error: No such command 'fly'.\n"),
        (("rm",), "Error: Missing argument 'MODEL...'.\n"),
        (("list", "--fast"), "Error: No such option"),
        (("run", "m", "--think=much"), 'Error: invalid think value: "much" (must be'),
        (("run", "m", "--keepalive", "long"), 'Error: invalid value "long" for --keepalive'),
        (("run", "m", "--format", "{"), "Error: invalid value for --format: neither json nor a JSON schema\n"),
        (("convert", "nowhere.gguf"), "Error: nowhere.gguf does not exist\n"),
        (("serve", "--threads", "x"), "Error: --threads must be a whole number"),
    ],
)
def test_mistakes_end_with_one(
    appliance: Run, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    outcome = appliance(*arguments)
    assert outcome.code == 1
    assert outcome.err.startswith(message)


def test_an_error_that_is_not_json_is_shown_as_it_is(server: Server, appliance: Run) -> None:
    server.replies["GET", "/api/tags"] = 502, b"Bad Gateway from a proxy"
    assert appliance("list").err == "Error: Bad Gateway from a proxy\n"
    server.replies["GET", "/api/tags"] = 503, b""
    assert appliance("list").err == "Error: 503 Service Unavailable\n"


@pytest.mark.parametrize("reply", [(200, b"<html>\n  Router"), (404, b"<html>\n  Router")])
def test_another_program_on_the_port(server: Server, appliance: Run, reply: tuple[int, bytes]) -> None:
    server.replies["GET", "/api/tags"] = reply
    what = f"GET /api/tags got {reply[0]} and '<html> Router'"
    assert appliance("list").err == f"Error: what answers at {server.url} is no appliance server: {what}\n"


def test_a_program_on_the_port_that_does_not_speak_http(
    appliance: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setenv("OLLAMA_HOST", f"127.0.0.1:{listener.getsockname()[1]}")

        def greet() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b"-ERR unknown command\r\n\r\n")
                connection.recv(1000)

        thread = threading.Thread(target=greet)
        thread.start()
        outcome = appliance("list")
        thread.join()
    assert outcome.code == 1
    assert "is no appliance server: it does not speak HTTP" in outcome.err


def test_a_server_elsewhere_that_cannot_be_reached(appliance: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_HOST", "http://nowhere.invalid:11434")
    outcome = appliance("list")
    assert outcome.err.startswith("Error: could not connect to appliance server at http://nowhere.invalid:11434: ")
    assert outcome.err.endswith("; OLLAMA_HOST says where it is\n")


def test_how_to_start_what_is_installed_as_a_service(
    appliance: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "appliance.service").touch()
    monkeypatch.setattr(client_module, "UNITS", (tmp_path / "appliance.service",))
    monkeypatch.setenv("OLLAMA_HOST", "127.0.0.1:1")
    assert appliance("ps").err.endswith("run 'systemctl start appliance' to start it\n")


@pytest.mark.parametrize("command", ["signin", "login", "signout", "logout", "launch"])
def test_what_has_no_meaning_here_says_so(appliance: Run, command: str) -> None:
    outcome = appliance(command, "claude", "--model", "m")
    assert (outcome.code, outcome.out, outcome.err.count("\n")) == (1, "", 1)
    assert command not in appliance("--help").out


def test_help_is_also_a_command(appliance: Run) -> None:
    assert appliance("help").out == appliance("--help").out
    assert appliance("help", "ls").out == appliance("list", "--help").out
    assert appliance("help", "fly").err == "Error: No such command 'fly'.\n"


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("", "http://127.0.0.1:11434"),
        ("0.0.0.0", "http://127.0.0.1:11434"),
        (":8080", "http://127.0.0.1:8080"),
        ("[::]:8080", "http://[::1]:8080"),
        ("https://box.local/llm", "https://box.local:443/llm"),
    ],
)
def test_where_the_server_is(tmp_path: Path, host: str, url: str) -> None:
    environ = {"XDG_CONFIG_HOME": str(tmp_path), "OLLAMA_HOST": host}
    assert server_url(load_settings({}, environ), environ) == url


def test_the_config_file_says_where_the_server_is(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text('host = "::"\nport = 8080\n')
    assert server_url(load_settings({}, {}, file), {}) == "http://[::1]:8080"


def test_lines_are_split_at_line_feeds_only() -> None:
    chunks = iter([b'{"a":"\xe2\x80\xa8', b'x"}\n{"b":1}', b"\n\n", b'{"c":2}'])
    assert list(client_module._lines(chunks)) == [b'{"a":"\xe2\x80\xa8x"}', b'{"b":1}', b'{"c":2}']


def test_a_line_without_end_is_refused() -> None:
    with pytest.raises(ValueError, match="too long"):
        list(client_module._lines(b"x" * 2**20 for _ in range(9)))


def test_an_address_that_is_none(appliance: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_HOST", "a:b:c")
    outcome = appliance("list")
    assert outcome.code == 1
    assert outcome.err.startswith("Error: invalid server address http://a:b:c:11434: ")


def test_what_the_disk_refuses_is_an_error(
    appliance: Run, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "Modelfile").write_text(f"FROM {'a' * 300}\n")
    outcome = appliance("create", "m")
    assert outcome.code == 1
    assert outcome.err.splitlines()[-1] == f"Error: {tmp_path / ('a' * 300)}: File name too long"


def test_two_files_of_one_name_are_refused(
    appliance: Run, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "m.gguf").write_text(folder)
    (tmp_path / "Modelfile").write_text("FROM a/m.gguf\nFROM b/m.gguf\n")
    outcome = appliance("create", "m")
    assert outcome.code == 1
    assert outcome.err.splitlines()[-1] == "Error: FROM b/m.gguf: there is another file named m.gguf"
    assert server.asked("/api/create") == []
