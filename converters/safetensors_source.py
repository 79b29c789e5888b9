"""Reading a Hugging Face folder: config.json and safetensors, in one file or several, as a source in GGUF's words."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from appliance.errors import ModelFileError, NotSafetensors
from appliance.store.gguf_header import TensorInfo
from appliance.store.hugging_face import folder_files, weight_files
from appliance.store.safetensors_header import read_safetensors
from converters.gguf_source import CHUNK_VALUES, path_digest
from converters.hugging_face import describe
from converters.hugging_face.tensors import Run, View, views

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]


class SafetensorsSource:
    """An open folder. Every read is a plain read of a few rows, so pages do not pile up. Threads may read it at once.

    Raises ModelFileError for files that are missing, damaged or contradict each other, UnsupportedModel for a
    configuration, tensor or dtype that the converters do not read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files = folder_files(path)
        description = describe(self.files)
        headers = {file: read_safetensors(file) for file in weight_files(self.files).values()}
        self._views = views(headers, description)
        self._made = dict(description.made)
        self.metadata: dict[str, Any] = description.metadata
        self.tensors = {name: view.info for name, view in self._views.items()}
        for name, array in self._made.items():
            if name in self.tensors:
                raise ModelFileError(f"a damaged model: tensor {name} is given twice")
            self.tensors[name] = TensorInfo(name, array.shape, 0, "F32", 0, array.nbytes)
        self._open: dict[Path, BinaryIO] = {file: file.open("rb", buffering=0) for file in headers}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._open:
            self._open.popitem()[1].close()

    def digest(self) -> str:
        """One over all files of the folder, except hidden ones."""
        return path_digest(self.path, self.files)

    def chunks(self, tensor: TensorInfo) -> Iterator[tuple[Bytes, Floats]]:
        """Yield the tensor's rows in order, a few at a time: (raw rows [rows, bytes], values [rows, columns]).

        Raises NotSafetensors for a file that ends early, ModelFileError for values that are infinite or no numbers.
        """
        if tensor.name in self._made:
            values = self._made[tensor.name].reshape(-1, tensor.shape[-1])
            yield values.view(np.uint8), values
            return
        view = self._views[tensor.name]
        for run in view.runs:
            for raw in self._rows(view, run):
                values = as_float32(raw, view.dtype)
                if not np.isfinite(values).all():
                    raise ModelFileError(f"a damaged model: tensor {tensor.name} holds values that are not finite")
                if view.plus:
                    values = values + np.float32(view.plus)
                yield (raw if view.dtype == tensor.type_name else values.view(np.uint8)), values

    def values(self, tensor: TensorInfo) -> Floats:
        """The whole of a small tensor, in its own shape."""
        return np.concatenate([values for _, values in self.chunks(tensor)]).reshape(tensor.shape)

    def _rows(self, view: View, run: Run) -> Iterator[Bytes]:
        file = self._open[run.path].fileno()
        step = max(1, CHUNK_VALUES // view.shape[-1]) * view.row_bytes
        for start in range(0, run.size, step):
            wanted = min(step, run.size - start)
            data = os.pread(file, wanted, run.offset + start)
            if len(data) < wanted:
                raise NotSafetensors(f"the file is cut short within tensor {view.name}")
            yield np.frombuffer(data, np.uint8).reshape(-1, view.row_bytes)


def as_float32(raw: Bytes, dtype: str) -> Floats:
    """Rows of stored values [rows, bytes] as float32 [rows, columns]."""
    if dtype == "BF16":
        return (raw.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    stored = {"F32": np.float32, "F16": np.float16, "F64": np.float64}[dtype]
    with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite, which chunks() refuses
        return raw.view(stored).astype(np.float32, copy=False)
