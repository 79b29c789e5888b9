"""Headers of safetensors files: real ones, and ones that lie."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from appliance.errors import NotSafetensors
from appliance.store import safetensors_header
from appliance.store.safetensors_header import read_safetensors


def entry(begin: int, end: int, shape: list[int], dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def write(path: Path, header: Any, data: bytes = b"", length: int | None = None) -> Path:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw) if length is None else length) + raw + data)
    return path


def test_a_file_of_the_library(tmp_path: Path) -> None:
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(5, np.float16), "c": np.float64(3)}
    save_file({name: np.asarray(array) for name, array in arrays.items()}, tmp_path / "m", metadata={"format": "pt"})
    raw = (tmp_path / "m").read_bytes()
    tensors = read_safetensors(tmp_path / "m")
    assert {tensor.name: (tensor.dtype, tensor.shape) for tensor in tensors} == {
        "a": ("F32", (2, 3)), "b": ("F16", (5,)), "c": ("F64", ()),
    }  # fmt: skip
    for tensor in tensors:
        assert raw[tensor.offset : tensor.offset + tensor.size] == np.asarray(arrays[tensor.name]).tobytes()


@pytest.mark.parametrize(
    ("header", "data", "message"),
    [
        (b"{", b"", "its header is not JSON"),
        (b"[" * 100_000, b"", "its header is not JSON"),
        (b'{"a": {}, "a": {}}', b"", "a key is given twice"),
        ([1], b"", "its header is no object"),
        ({"a": 5}, b"", "'a' lacks dtype, shape or data_offsets"),
        ({"a": {"dtype": "F32", "shape": [1]}}, b"", "'a' lacks dtype, shape or data_offsets"),
        ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0]}}, b"", "'a' lacks dtype, shape or data_offsets"),
        ({"a": entry(0, 4, [1], "F99")}, b"1234", "'a' has the unknown dtype 'F99'"),
        ({"a": entry(0, 4, [-1])}, b"1234", r"'a' has shape \[-1\]"),
        ({"a": entry(0, 4, [1.0])}, b"1234", r"'a' has shape \[1.0\]"),  # type: ignore[list-item]
        ({"a": entry(0, 4, [True])}, b"1234", r"'a' has shape \[True\]"),
        ({"a": entry(0, 4, [1] * 9)}, b"1234", "'a' has shape"),
        ({"a": entry(0, 4, [1 << 62, 1 << 62])}, b"1234", "'a' has shape"),
        ({"a": entry(-4, 0, [1])}, b"1234", r"'a' lies at \[-4, 0\]"),
        ({"a": entry(0, 4, [2])}, b"1234", r"'a' of shape \[2\] in F32 needs 8 bytes, not 4"),
        ({"a": entry(4, 0, [1])}, b"1234", "needs 4 bytes, not -4"),
        ({"a": entry(0, 4, [1], "F16")}, b"1234", "needs 2 bytes, not 4"),
        ({"a": entry(0, 4, [1]), "b": entry(0, 4, [1])}, b"1234", "tensor 'b' overlaps the one before it"),
        ({"a": entry(0, 8, [2]), "b": entry(4, 12, [2])}, b"123456789012", "tensor 'b' overlaps the one before it"),
        ({"a": entry(4, 8, [1])}, b"12345678", "tensor 'a' leaves a gap before it"),
        ({"a": entry(0, 4, [1])}, b"12345678", "4 bytes after the last tensor"),
        ({"a": entry(0, 8, [2])}, b"1234", "the file is cut short: tensor 'a' needs"),
        ({"a": entry(0, 1 << 40, [1 << 38])}, b"1234", "the file is cut short: tensor 'a' needs"),
    ],
)  # fmt: skip
def test_what_contradicts_itself(tmp_path: Path, header: Any, data: bytes, message: str) -> None:
    with pytest.raises(NotSafetensors, match=message):
        read_safetensors(write(tmp_path / "m", header, data))


def test_lengths_beyond_the_file(tmp_path: Path) -> None:
    (tmp_path / "short").write_bytes(b"1234567")
    with pytest.raises(NotSafetensors, match="it has 7 bytes"):
        read_safetensors(tmp_path / "short")
    with pytest.raises(NotSafetensors, match="the header needs 1,008 bytes, the file has 10"):
        read_safetensors(write(tmp_path / "m", {}, length=1000))
    with pytest.raises(NotSafetensors, match="a header of 18,446,744,073,709,551,615 bytes, at most 104,857,600"):
        read_safetensors(write(tmp_path / "m", {}, length=(1 << 64) - 1))


def test_too_many_tensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(safetensors_header, "MAX_TENSORS", 2)
    header = {name: entry(0, 0, [0]) for name in "abc"}
    with pytest.raises(NotSafetensors, match="no object of at most 2 tensors"):
        read_safetensors(write(tmp_path / "m", header))


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 200), byte=st.integers(0, 255))
def test_a_wrong_byte_is_an_error_of_ours_or_harmless(tmp_path: Path, place: int, byte: int) -> None:
    raw = bytearray(write(tmp_path / "m", {"a": entry(0, 4, [1]), "b": entry(4, 12, [2])}, bytes(12)).read_bytes())
    raw[place % len(raw)] = byte
    (tmp_path / "m").write_bytes(raw)
    try:
        tensors = read_safetensors(tmp_path / "m")
    except NotSafetensors:
        return
    assert all(8 <= tensor.offset <= tensor.offset + tensor.size <= len(raw) for tensor in tensors)
