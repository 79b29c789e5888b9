"""What `appliance doctor` makes of what it sees."""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest

from appliance import doctor
from appliance.config import Settings
from appliance.doctor import Finding
from appliance.engine.card import CardMemory
from appliance.engine.probe import Probe
from appliance.engine.providers import CPU, CUDA, DIRECTML
from appliance.processor import instruction_sets

MISSING = "libcublasLt.so.13: cannot open shared object file"
ABSENT = "not in this build of ONNX Runtime, but in the package onnxruntime-directml"


def named(findings: list[Finding], name: str) -> Finding:
    (found,) = [finding for finding in findings if finding.name == name]
    return found


def test_models_get_the_first_provider_that_works() -> None:
    probes = [Probe(CUDA, MISSING), Probe(DIRECTML, ABSENT), Probe(CPU)]
    found = doctor.providers(probes, "auto")
    assert [(each.name, each.state) for each in found] == [
        ("CUDA", "warning"), ("DirectML", "note"), ("CPU", "ok"), ("models use", "ok"),
    ]  # fmt: skip
    assert named(found, "CUDA").text == MISSING
    assert named(found, "models use").text == "CPU (auto)"
    assert doctor.used_provider(probes, "auto") == "CPU"


def test_a_provider_that_is_set_and_does_not_work_is_a_problem() -> None:
    probes = [Probe(CUDA, MISSING), Probe(CPU)]
    use = named(doctor.providers(probes, "cuda"), "models use")
    assert use.state == "problem"
    assert MISSING in use.text
    assert doctor.used_provider(probes, "cuda") is None


@pytest.mark.parametrize(
    ("installed", "state", "said"),
    [
        ({"onnxruntime": "1.32.0"}, "ok", "onnxruntime 1.32.0"),
        ({"onnxruntime": "1.33.1"}, "ok", "onnxruntime 1.33.1"),
        ({"onnxruntime-gpu": "1.31.1"}, "warning", "older than 1.32"),
        ({"onnxruntime": "1.32.0", "onnxruntime-gpu": "1.32.0"}, "problem", "overwrite each other"),
        ({}, "ok", "no package"),
    ],
)
def test_which_onnx_runtime_is_installed(installed: dict[str, str], state: str, said: str) -> None:
    found = named(doctor.runtime(installed), "ONNX Runtime")
    assert found.state == state
    assert said in found.text


def test_instructions_of_x86_and_of_arm() -> None:
    x86 = "model name\t: X\nflags\t\t: fpu sse2 avx2 avx512f avx512_vnni amx_int8\nbugs\t\t: avx_vnni\n"
    arm = "Features\t: fp asimd crc32 asimddp i8mm\n"
    assert instruction_sets(x86) == {"avx2", "avx512f", "avx512_vnni", "amx_int8"}
    assert instruction_sets(arm) == {"asimd", "asimddp", "i8mm"}
    said = named(doctor.processor(arm, Settings()), "instructions")
    assert (said.state, said.text) == ("ok", "NEON, dot products, I8MM")


@pytest.mark.parametrize(
    ("cpuinfo", "state"), [("flags: sse2 avx2\n", "warning"), ("Features: fp asimd\n", "warning"), ("", "note")]
)
def test_a_processor_without_integer_products_is_worth_a_warning(cpuinfo: str, state: str) -> None:
    assert named(doctor.processor(cpuinfo, Settings()), "instructions").state == state


def test_the_threads_are_those_that_models_get() -> None:
    assert named(doctor.processor("", Settings(threads=3)), "threads of a model").text == "3"


def test_a_small_budget_is_worth_a_warning() -> None:
    assert named(doctor.memory(Settings(memory_budget_bytes=10**8)), "for models").state == "warning"
    enough = named(doctor.memory(Settings(memory_budget_bytes=4 * 10**9)), "for models")
    assert (enough.state, enough.text) == ("ok", "4.0 GB now, of 4.0 GB at most")


def test_a_cards_memory_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "card_memory", lambda: CardMemory(24 * 10**9, 10**9))
    assert named(doctor.memory(Settings()), "GPU").text == "24.0 GB, of which 1.0 GB free"
    monkeypatch.setattr(doctor, "card_memory", lambda: None)
    assert "GPU" not in [finding.name for finding in doctor.memory(Settings())]


def test_a_models_folder_that_is_not_there_yet_is_judged_by_its_parent(tmp_path: Path) -> None:
    found = named(doctor.models_folder(tmp_path / "a" / "b"), "folder")
    assert found.state == "ok"
    assert found.text.endswith("to be made at the first start")
    assert list(tmp_path.iterdir()) == []


def test_a_models_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "models").write_text("a file")
    assert named(doctor.models_folder(tmp_path / "models"), "folder").state == "problem"
    if os.geteuid():  # root may write anywhere
        tmp_path.chmod(0o500)
        assert named(doctor.models_folder(tmp_path / "new"), "folder").state == "problem"
        tmp_path.chmod(0o700)


@pytest.mark.parametrize(("free", "state"), [(5 * 10**9, "ok"), (10**9, "warning"), (10**7, "problem")])
def test_free_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, state: str) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    assert named(doctor.models_folder(tmp_path), "disk").state == state


def test_a_port_that_somebody_holds_is_a_problem() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings = Settings(port=taken.getsockname()[1])
        found = named(doctor.server(settings, "http://127.0.0.1:1", ""), "port")
    assert found.state == "problem"
    assert "in use" in found.text
    assert named(doctor.server(settings, "http://127.0.0.1:1", ""), "port").state == "ok"


def test_another_server_in_the_place_of_ours_is_a_problem() -> None:
    states = {answer: doctor.server(Settings(), "http://x", answer)[0].state for answer in ("ours", "another")}
    assert states == {"ours": "ok", "another": "problem"}


def test_an_extra_that_is_not_installed_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "EXTRAS", {"convert": ("pytest", "no-such-package")})
    (found,) = doctor.extras()
    assert found.state == "note"
    assert found.text == 'not installed (no-such-package); pip install "edge-appliance[convert]"'
