"""model.onnx.data: planned first, so that the graph can point into it, then filled piece by piece."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from appliance.bundle import WEIGHTS

ALIGNMENT = 64
Shape = tuple[int, ...]


@dataclass(slots=True)
class Region:
    """A range of the file that holds one array, and how much of it is written."""

    offset: int
    size: int
    written: int = 0


class WeightsFile:
    """The plan of the file: every array has its place before the first byte is written."""

    def __init__(self) -> None:
        self.size = 0
        self._jobs: list[Callable[[], None]] = []
        self._file = -1

    def reserve(self, size: int) -> Region:
        """Set `size` bytes aside."""
        region = Region(-(-self.size // ALIGNMENT) * ALIGNMENT, size)
        self.size = region.offset + size
        return region

    def later(self, job: Callable[[], None]) -> None:
        """Have `job` fill its regions with `append` when the file is written."""
        self._jobs.append(job)

    def append(self, region: Region, array: NDArray[Any]) -> None:
        """Write the next rows of a region."""
        data = np.ascontiguousarray(array).data.cast("B") if array.size else b""
        if region.written + len(data) > region.size:
            raise ValueError("more data than was planned")
        start = region.offset + region.written
        region.written += len(data)
        while data:
            count = os.pwrite(self._file, data, start)
            data, start = data[count:], start + count

    def write(self, folder: Path) -> None:
        """Create the file in `folder`, run all jobs, and make it durable."""
        self._file = os.open(folder / WEIGHTS, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        try:
            os.posix_fallocate(self._file, 0, max(self.size, 1))
            for job in self._jobs:
                job()
            os.fsync(self._file)
        finally:
            os.close(self._file)


def initializer(name: str, region: Region, dtype: ir.DataType, shape: Shape) -> ir.Value:
    """A graph initializer whose bytes lie in the region."""
    tensor = ir.ExternalTensor(WEIGHTS, region.offset, region.size, dtype, shape=ir.Shape(shape), name=name)
    return ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(dtype), const_value=tensor)
