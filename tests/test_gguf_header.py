"""The GGUF header reader, on files as they should be and as an enemy would send them."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader, GGUFWriter
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance.errors import ModelFileError, NotGGUF, TruncatedGGUF
from appliance.store.gguf_header import MAX_VALUES, TENSOR_TYPES, read_header

U32, U64 = 4, 10


def string(text: str | bytes) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(raw)) + raw


def pair(key: str, kind: int, raw: bytes) -> bytes:
    return string(key) + struct.pack("<I", kind) + raw


def entry(name: str, dims: tuple[int, ...], kind: int = 0, offset: int = 0) -> bytes:
    return string(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


def gguf(pairs: list[bytes] = [], tensors: list[bytes] = [], data: bytes = b"", version: int = 3) -> bytes:  # noqa: B006
    raw = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(pairs)) + b"".join(pairs) + b"".join(tensors)
    return raw + b"\0" * (-len(raw) % 32) + data


@pytest.fixture
def write(tmp_path: Path):
    def write(raw: bytes) -> Path:
        path = tmp_path / "model.gguf"
        path.write_bytes(raw)
        return path

    return write


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "good.gguf"
    writer = GGUFWriter(path, "llama")
    writer.add_string("text", "naïve ☃")
    writer.add_bool("yes", True)
    writer.add_float64("double", 1.25)
    writer.add_int64("negative", -(2**60))
    writer.add_array("strings", ["a", "", "ć"])
    writer.add_array("floats", [0.5, -1.5])
    writer.add_array("flags", [True, False])
    writer.add_tensor("f32", np.arange(24, dtype=np.float32).reshape(2, 3, 4))
    writer.add_tensor("q8", np.zeros((4, 68), np.uint8), raw_dtype=GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_agrees_with_the_reference_reader(good: Path) -> None:
    header = read_header(good)
    reader = GGUFReader(good)
    expected = {key: field.contents() for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    assert header.metadata == expected
    assert header.version == 3
    assert header.file_size == good.stat().st_size
    for ours, theirs in zip(header.tensors, reader.tensors, strict=True):
        assert ours.name == theirs.name
        assert ours.shape == tuple(int(n) for n in theirs.shape)[::-1]
        assert (ours.type, ours.offset, ours.size) == (theirs.tensor_type, theirs.data_offset, theirs.n_bytes)
    assert header.tensors[1].type_name == "Q8_0"
    assert header.tensors[1].shape == (4, 64)


def test_knows_every_type_of_the_reference() -> None:
    for kind in GGMLQuantizationType:
        name, *sizes = TENSOR_TYPES[kind]
        assert name == kind.name
        if kind is not GGMLQuantizationType.Q8_1:  # the library still has the size of an older ggml
            assert tuple(sizes) == GGML_QUANT_SIZES[kind]


def test_every_truncation_is_told(good: Path, tmp_path: Path) -> None:
    raw = good.read_bytes()
    header = read_header(good)
    last = header.tensors[-1]
    cut = tmp_path / "cut.gguf"
    for length in range(4, last.offset + last.size):
        cut.write_bytes(raw[:length])
        with pytest.raises(TruncatedGGUF) as error:
            read_header(cut)
        assert error.value.actual == length
        assert error.value.needed > length


@pytest.mark.parametrize("raw", [b"", b"G", b"GGM", b"ggml" + b"\0" * 60, b"PK\3\4" + b"\0" * 60])
def test_other_files_are_not_gguf(write, raw: bytes) -> None:
    with pytest.raises(NotGGUF):
        read_header(write(raw))


@pytest.mark.parametrize(("version", "reason"), [(1, "version 1"), (4, "version 4"), (3 << 24, "big-endian")])
def test_other_versions_are_refused(write, version: int, reason: str) -> None:
    with pytest.raises(NotGGUF, match=reason):
        read_header(write(gguf(version=version)))


def test_huge_counts_are_refused_before_anything_is_allocated(write) -> None:
    big = 2**63
    for raw in (
        b"GGUF" + struct.pack("<IQQ", 3, big, 0),
        b"GGUF" + struct.pack("<IQQ", 3, 0, big),
        gguf([string("k") + struct.pack("<I", 8) + struct.pack("<Q", big)]),
        gguf([pair("k", 9, struct.pack("<IQ", 7, big))]),
        gguf([pair("k", 9, struct.pack("<IQ", 8, big))]),
        gguf([struct.pack("<Q", big)]),
        gguf(tensors=[entry("t", (2**62, 2**62))]),
    ):
        with pytest.raises(TruncatedGGUF):
            read_header(write(raw))


def test_a_header_without_bounds_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "sparse.gguf"
    values = 3 * MAX_VALUES
    path.write_bytes(gguf([pair("k", 9, struct.pack("<IQ", 7, values))]))
    with path.open("r+b") as file:
        file.truncate(1 << 30)
    with pytest.raises(NotGGUF, match="metadata values at metadata 'k'"):
        read_header(path)
    path.write_bytes(gguf([pair("k", 8, struct.pack("<Q", 1 << 29))]))
    with path.open("r+b") as file:
        file.truncate(1 << 30)
    with pytest.raises(NotGGUF, match="the header exceeds"):
        read_header(path)


def test_arrays_may_nest_a_little(write) -> None:
    def nested(depth: int) -> bytes:
        inner = struct.pack("<IQ", U32, 1) + struct.pack("<I", 7)
        for _ in range(depth):
            inner = struct.pack("<IQ", 9, 1) + inner
        return gguf([pair("k", 9, inner)])

    assert read_header(write(nested(1))).metadata == {"k": [[7]]}
    with pytest.raises(NotGGUF, match="nests arrays"):
        read_header(write(nested(50)))


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (gguf([pair("k", 13, b"\0" * 8)]), "unknown type 13"),
        (gguf([pair("k", U32, b"\0" * 4)] * 2), "given twice"),
        (gguf([pair("general.alignment", U32, struct.pack("<I", 12))]), "general.alignment is 12"),
        (gguf([pair("general.alignment", U32, struct.pack("<I", 0))]), "general.alignment is 0"),
        (gguf([pair("general.alignment", 8, string("x"))]), "general.alignment is x"),
        (gguf(tensors=[entry("t", (2,))] * 2, data=b"\0" * 64), "given twice"),
        (gguf(tensors=[entry("t", (2,) * 5)]), "5 dimensions"),
        (gguf(tensors=[entry("t", (0, 2))]), "has shape"),
        (gguf(tensors=[entry("t", (33,), kind=8)]), "rows of 33 in Q8_0 blocks"),
        (gguf(tensors=[entry("t", (2,), offset=7)], data=b"\0" * 64), "not aligned"),
    ],
)
def test_headers_that_contradict_themselves_are_refused(write, raw: bytes, reason: str) -> None:
    with pytest.raises(NotGGUF, match=reason):
        read_header(write(raw))


def test_unknown_tensor_types_are_named(write) -> None:
    tensor = read_header(write(gguf(tensors=[entry("t", (64, 2), kind=99)]))).tensors[0]
    assert (tensor.type_name, tensor.size, tensor.shape) == ("type 99", 0, (2, 64))


def test_alignment_moves_the_data(write) -> None:
    raw = gguf([pair("general.alignment", U32, struct.pack("<I", 64))], [entry("t", (4,))], b"\0" * 128)
    header = read_header(write(raw))
    assert header.data_offset % 64 == 0
    assert header.tensors[0].offset == header.data_offset


def test_text_that_is_not_utf8_does_not_stop_the_reading(write) -> None:
    assert read_header(write(gguf([pair("k", 8, string(b"caf\xc3"))]))).metadata == {"k": "caf�"}


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(places=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=8))
def test_damaged_files_raise_only_our_errors(good: Path, tmp_path: Path, places: list[tuple[int, int]]) -> None:
    raw = bytearray(good.read_bytes())
    for place, value in places:
        raw[place % len(raw)] = value
    path = tmp_path / "damaged.gguf"
    path.write_bytes(raw)
    try:
        header = read_header(path)
    except ModelFileError:
        return
    assert all(tensor.offset + tensor.size <= header.file_size for tensor in header.tensors)
