"""`doctor` on this machine, with and without something that answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import Outcome, Server

Run = Callable[..., Outcome]


@pytest.fixture(autouse=True)
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("APPLIANCE_PROVIDER", "cpu")


def test_all_is_well_beside_a_running_server(appliance: Run, server: Server) -> None:
    server.says("GET", "/api/stats", {})
    outcome = appliance("doctor")
    assert outcome.code == 0, outcome.err
    assert "CPU (cpu)" in outcome.out
    assert f"answers on {server.url}" in outcome.out
    titles = [line.strip() for line in outcome.out.splitlines() if line.startswith("  ") and line[2] != " "]
    assert titles == ["Runtime", "Execution providers", "Processor", "Memory", "Models", "Server", "Extras"]


def test_another_server_on_the_port_fails(appliance: Run, server: Server) -> None:
    outcome = appliance("doctor")  # the scripted server knows no /api/stats
    assert outcome.code == 1
    assert "PROBLEM: another server answers" in outcome.out
    assert outcome.err == "Error: 1 problem (server: running)\n"


def test_json_holds_the_findings_and_nothing_else_is_printed(appliance: Run, server: Server) -> None:
    server.says("GET", "/api/stats", {})
    outcome = appliance("doctor", "--json")
    report = json.loads(outcome.out)
    assert report["provider"] == "CPU"
    assert {finding["state"] for finding in report["findings"]} <= {"ok", "note", "warning", "problem"}
    assert {"section": "Execution providers", "name": "CPU", "state": "ok", "text": "runs graphs"} in report["findings"]


def test_a_provider_that_this_build_lacks_fails(
    appliance: Run, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.says("GET", "/api/stats", {})
    monkeypatch.setenv("APPLIANCE_PROVIDER", "directml")
    outcome = appliance("doctor", "--json")
    assert outcome.code == 1
    assert json.loads(outcome.out)["provider"] is None
    assert "execution providers: models use" in outcome.err
