"""Probing execution providers."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path

import onnx
import onnxruntime
import pytest

from appliance.engine import probe
from appliance.engine.providers import CPU, CUDA, DIRECTML
from appliance.errors import ModelFileError


def test_the_graph_to_probe_with_is_valid() -> None:
    model = onnx.load_from_string(probe.NEGATION)
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node] == ["Neg"]


def test_the_cpu_runs_graphs_and_what_is_not_built_in_is_said_to_be_so() -> None:
    found = {each.provider: each.reason for each in probe.probe_all(["CPUExecutionProvider"])}
    assert found[CPU] == ""
    assert found[CUDA] == "not in this build of ONNX Runtime, but in the package onnxruntime-gpu"
    assert "onnxruntime-directml" in found[DIRECTML]


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_provider_that_is_built_in_but_does_not_start_has_a_reason() -> None:
    found = {each.provider: each.reason for each in probe.probe_all(["CUDAExecutionProvider", "CPUExecutionProvider"])}
    assert "fallback to CPU EP has been explicitly disabled" in found[CUDA]


def test_a_missing_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "capi"
    folder.mkdir()
    for name in ("shared", "cuda"):
        (folder / f"libonnxruntime_providers_{name}.so").touch()
    monkeypatch.setattr(onnxruntime, "__file__", str(tmp_path / "__init__.py"))
    loaded: list[str] = []

    def load(path: str, mode: int = 0) -> None:
        loaded.append(Path(path).name)
        if "cuda" in path:
            raise OSError(f"{path}: libcublasLt.so.13: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", load)
    complaint = probe.missing_library(CUDA)
    assert complaint == "libonnxruntime_providers_cuda.so: libcublasLt.so.13: cannot open shared object file"
    assert loaded == ["libonnxruntime_providers_shared.so", "libonnxruntime_providers_cuda.so"]
    assert probe.missing_library(CPU) == ""


@pytest.fixture
def with_cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A build that has CUDA, on a machine without its libraries."""
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA.name, CPU.name])
    monkeypatch.setattr(probe, "missing_library", lambda provider: "libcublasLt.so.13: no such file")
    probe.usable.cache_clear()
    yield
    probe.usable.cache_clear()


def test_what_does_not_start_is_passed_over_with_the_reason_said_once(
    with_cuda: None, caplog: pytest.LogCaptureFixture
) -> None:
    assert probe.usable("auto") == probe.usable("auto") == (CPU,)
    assert [record.getMessage() for record in caplog.records] == [
        "CUDA does not start here, trying the next provider: libcublasLt.so.13: no such file"
    ]


def test_a_provider_that_is_set_and_does_not_start_is_an_error(with_cuda: None) -> None:
    with pytest.raises(ModelFileError, match=r"CUDA does not start here: libcublasLt\.so\.13"):
        probe.usable("cuda")
    assert probe.usable("cpu") == (CPU,)
