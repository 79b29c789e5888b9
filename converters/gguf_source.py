"""Reading tensors of a GGUF file piece by piece, so that no tensor is ever whole in memory."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from gguf import quants
from numpy.typing import NDArray

from appliance.errors import NotGGUF, TruncatedGGUF, UnsupportedModel
from appliance.store.gguf_header import GGUFHeader, TensorInfo, read_header
from appliance.store.parts import combined
from appliance.store.split_gguf import COUNT

CHUNK_VALUES = 1 << 17  # half a megabyte of float32 stays in a core's cache: a quarter less time than with 4 MB
BLOB_NAME = re.compile(r"sha256-([0-9a-f]{64})")
PLAIN = {"F64": np.float64, "F32": np.float32, "F16": np.float16}
READABLE = (
    *PLAIN, "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K",
    "IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_NL", "IQ4_XS",
    "TQ1_0", "TQ2_0", "MXFP4", "NVFP4",
)  # fmt: skip


class GGUFSource:
    """An open GGUF file. Raises as `read_header` does; every read is a plain read, so pages do not pile up.

    Threads may read it at the same time. `part` is the header of a file that is known to be one of several.
    """

    files: Mapping[str, Path] = {}

    def __init__(self, path: Path, part: GGUFHeader | None = None) -> None:
        self.path = path
        header = part or read_header(path)
        self.metadata: dict[str, Any] = header.metadata
        self.tensors = {tensor.name: tensor for tensor in header.tensors}
        for tensor in header.tensors:
            if tensor.type_name not in READABLE:
                raise UnsupportedModel(f"tensor type {tensor.type_name} of {tensor.name[:80]}", READABLE)
        if part is None and self.metadata.get(COUNT, 1) != 1:
            raise UnsupportedModel("one file of a model that is split over several", ("all of them",))
        self._file = path.open("rb", buffering=0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def digest(self) -> str:
        """The file's "sha256:…"."""
        return path_digest(self.path)

    def chunks(self, tensor: TensorInfo) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.float32]]]:
        """Yield the tensor's rows in order, a few at a time: (raw blocks [rows, bytes], values [rows, columns]).

        Raises TruncatedGGUF, and NotGGUF for values that are infinite or no numbers.
        """
        columns = tensor.shape[-1]
        rows = int(np.prod(tensor.shape[:-1], dtype=np.int64))
        row_bytes = tensor.size // rows
        step = max(1, CHUNK_VALUES // columns)
        for start in range(0, rows, step):
            count = min(step, rows - start)
            data = os.pread(self._file.fileno(), count * row_bytes, tensor.offset + start * row_bytes)
            if len(data) < count * row_bytes:
                raise TruncatedGGUF(tensor.name, tensor.offset + tensor.size, os.fstat(self._file.fileno()).st_size)
            raw = np.frombuffer(data, np.uint8).reshape(count, row_bytes)
            with np.errstate(over="ignore", invalid="ignore"):  # a damaged scale is told below
                values = dequantise(raw, tensor.type_name)
            if not np.isfinite(values).all():
                raise NotGGUF(f"a damaged model: tensor {tensor.name} holds values that are not finite")
            yield raw, values

    def values(self, tensor: TensorInfo) -> NDArray[np.float32]:
        """The whole of a small tensor, in its own shape."""
        return np.concatenate([values for _, values in self.chunks(tensor)]).reshape(tensor.shape)


def path_digest(path: Path, files: Mapping[str, Path] = {}) -> str:
    """The "sha256:…" of a file, or of all `files` of the folder `path`. A model store gives it in the path's name."""
    named = BLOB_NAME.fullmatch(path.name)
    if named:
        return f"sha256:{named[1]}"
    if files:
        return combined({name: path_digest(file) for name, file in files.items()})
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def dequantise(raw: NDArray[np.uint8], type_name: str) -> NDArray[np.float32]:
    """Turn rows of blocks [rows, bytes] into float32 [rows, columns]."""
    values: NDArray[np.float32]
    if type_name in PLAIN:
        values = raw.view(PLAIN[type_name]).astype(np.float32, copy=False)
    else:
        kind = getattr(quants, type_name)  # quants.dequantize takes 16 rows at a time, which doubles the time
        kind.init_grid()
        values = kind.dequantize_rows(raw)
    return values
