"""The KV cache arena: one buffer per layer for keys and one for values, a row per slot.

The arena is mapped at full capacity when a model loads. The kernel hands out pages only when they are
written, so an unused slot and the unused end of a used one cost nothing.
"""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np
import onnxruntime as ort

from appliance.bundle import Bundle

DTYPES = {"float32": np.float32, "float16": np.float16, "int8": np.int8}


class Arena:
    """`2 * layers` buffers of shape [slots, kv_heads, capacity, head_dim] on `device`."""

    def __init__(self, bundle: Bundle, slots: int, capacity: int, device: str) -> None:
        self.device = device
        self.dtype = DTYPES[bundle.kv_dtype]
        self.row_shape = (bundle.kv_heads, capacity, bundle.head_dim)
        self.row_bytes = int(np.prod(self.row_shape)) * np.dtype(self.dtype).itemsize
        self.names = [f"{kind}.{layer}" for layer in range(bundle.layers) for kind in ("key", "value")]
        allocate = self._map if device == "cpu" else self._on_device
        self._owners: list[Any] = []
        self._pointers = [allocate(slots) for _ in self.names]

    def _map(self, slots: int) -> int:
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)
        memory = mmap.mmap(-1, slots * self.row_bytes, flags=flags)
        array = np.frombuffer(memory, dtype=np.uint8)
        self._owners.append(array)
        return int(array.ctypes.data)

    def _on_device(self, slots: int) -> int:
        value = ort.OrtValue.ortvalue_from_shape_and_type((slots, *self.row_shape), self.dtype, self.device, 0)
        self._owners.append(value)
        return int(value.data_ptr())

    def bind(self, binding: Any, first: int, rows: int) -> None:
        """Bind slots first..first+rows-1 as past and as present, in place."""
        shape = (rows, *self.row_shape)
        for name, pointer in zip(self.names, self._pointers, strict=True):
            at = pointer + first * self.row_bytes
            binding.bind_input(f"past_{name}", self.device, 0, self.dtype, shape, at)
            binding.bind_output(f"present_{name}", self.device, 0, self.dtype, shape, at)

    def close(self) -> None:
        """Give the memory back; no binding may be used afterwards."""
        self._owners.clear()
        self._pointers.clear()
