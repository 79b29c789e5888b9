"""A session that, as accelerators do, is given a copy of what lies in host memory at the moment it is bound."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from appliance.bundle import read_description
from appliance.engine import ort, providers
from appliance.engine.backend import Row
from appliance.engine.ort import OrtBackend
from converters.bundle import convert
from tests.tiny_model import write_tiny_gguf

TOKENS = tuple(int(token) for token in np.random.default_rng(2).integers(0, 256, 40))


class CopyingBinding:
    def __init__(self, binding: Any) -> None:
        self.real = binding
        self._copies: dict[str, np.ndarray] = {}

    def bind_input(self, name: str, device: str, number: int, dtype: Any, shape: Any, pointer: int) -> None:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        self._copies[name] = np.frombuffer(ctypes.string_at(pointer, size), np.uint8)
        self.real.bind_input(name, device, number, dtype, shape, self._copies[name].ctypes.data)

    def bind_output(self, *place: Any) -> None:
        self.real.bind_output(*place)


class CopyingSession:
    """A session of the CPU provider that is said to be CUDA's."""

    def __init__(self, session: Any) -> None:
        self._session = session

    def get_providers(self) -> list[str]:
        return [providers.CUDA.name]

    def get_inputs(self) -> Any:
        return self._session.get_inputs()

    def io_binding(self) -> CopyingBinding:
        return CopyingBinding(self._session.io_binding())

    def run_with_iobinding(self, binding: CopyingBinding, options: Any) -> None:
        self._session.run_with_iobinding(binding.real, options)


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_every_run_sees_its_own_tokens_and_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str) -> None:
    convert(write_tiny_gguf(tmp_path / "tiny.gguf"), tmp_path / "bundle", "fp32", target=target)
    expected = logits(tmp_path / "bundle")
    opened = ort.open_session
    monkeypatch.setattr(ort, "open_session", lambda *arguments: CopyingSession(opened(*arguments)))
    np.testing.assert_allclose(logits(tmp_path / "bundle"), expected, atol=1e-5)


def logits(folder: Path) -> np.ndarray:
    backend = OrtBackend(folder, read_description(folder), slots=2, provider=providers.CPU, threads=1)
    done, parts = 0, []
    for size in (20, 1, 1, 5, 1):
        chunk = TOKENS[done : done + size]
        rows = [Row(0, done, chunk[::-1]), Row(1, done, chunk, logits=size)]
        parts.append(backend.run(rows)[1].copy())
        done += size
    backend.close()
    return np.concatenate(parts)
