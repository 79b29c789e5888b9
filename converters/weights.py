"""model.onnx.data: planned first, so that the graph can point into it, then filled piece by piece, by a few threads."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from appliance.bundle import WEIGHTS

ALIGNMENT = 64
MOST_THREADS = 4  # numpy lets others run while it computes, but not while it is called
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
        self._descriptor = -1

    def reserve(self, size: int) -> Region:
        """Set `size` bytes aside."""
        region = Region(-(-self.size // ALIGNMENT) * ALIGNMENT, size)
        self.size = region.offset + size
        return region

    def later(self, job: Callable[[], None]) -> None:
        """Have `job` fill its regions with `append` when the file is written, beside other jobs."""
        self._jobs.append(job)

    def append(self, region: Region, array: NDArray[Any]) -> None:
        """Write the next rows of a region."""
        data = np.ascontiguousarray(array).data.cast("B") if array.size else memoryview(b"")
        if region.written + len(data) > region.size:
            raise ValueError("more data than was planned")
        while data:
            count = os.pwrite(self._descriptor, data, region.offset + region.written)
            region.written += count
            data = data[count:]

    def write(self, folder: Path) -> None:
        """Create the file in `folder`, and run all jobs; raises what the first job that fails does."""
        with (folder / WEIGHTS).open("xb") as file, ThreadPoolExecutor(threads()) as pool:
            file.truncate(self.size)
            self._descriptor = file.fileno()
            try:
                for done in wait([pool.submit(job) for job in self._jobs], return_when=FIRST_EXCEPTION).done:
                    done.result()
            finally:
                pool.shutdown(cancel_futures=True)


def threads() -> int:
    """How many jobs run at a time."""
    return min(len(os.sched_getaffinity(0)), MOST_THREADS)


def initializer(name: str, region: Region, dtype: ir.DataType, shape: Shape) -> ir.Value:
    """A graph initializer whose bytes lie in the region."""
    tensor = ir.ExternalTensor(WEIGHTS, region.offset, region.size, dtype, shape=ir.Shape(shape), name=name)
    return ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(dtype), const_value=tensor)
