"""The KV cache arena: one buffer per layer for keys and one for values, a row per slot.

In host memory the arena is mapped at full capacity when a model loads. The kernel hands out pages only when they are
written, so an unused slot and the unused end of a used one cost nothing.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from appliance.bundle import Bundle
from appliance.engine.providers import CPU, Provider
from appliance.errors import ModelFileError

DTYPES = {"float32": np.float32, "float16": np.float16, "int8": np.int8}


class DeviceMemory:
    """Bytes of the arenas on a device: `live` now, and `most` at a time so far.

    ONNX Runtime never gives memory that it allocated on a device back: later arenas are allocated from it.
    """

    live = most = 0

    @classmethod
    def add(cls, size: int) -> None:
        cls.live += size
        cls.most = max(cls.most, cls.live)

    @classmethod
    def spare(cls) -> int:
        """What this process holds of a device without using it."""
        return cls.most - cls.live


def slot_tokens(bundle: Bundle, provider: Provider, context: int | None) -> int:
    """How many tokens a slot holds: the model's whole context where that costs nothing until it is used, on the CPU.

    An accelerator's memory is taken at once, so there a slot holds the `context` that a model is loaded with.
    """
    return bundle.context_length if provider is CPU or context is None else min(context, bundle.context_length)


class Arena:
    """`2 * layers` buffers of shape [slots, kv_heads, capacity, head_dim] on `device`."""

    def __init__(
        self, bundle: Bundle, slots: int, capacity: int, device: str, names: Sequence[tuple[str, str]] | None = None
    ) -> None:
        """`names`: what the graph calls past and present of each buffer, where that is not our way."""
        self.device = device
        self.dtype = DTYPES[bundle.kv_dtype]
        self.row_shape = (bundle.kv_heads, capacity, bundle.head_dim)
        self.row_bytes = int(np.prod(self.row_shape)) * np.dtype(self.dtype).itemsize
        self.names = names or [
            (f"past_{kind}.{layer}", f"present_{kind}.{layer}")
            for layer in range(bundle.layers)
            for kind in ("key", "value")
        ]
        allocate = self._map if device == "cpu" else self._on_device
        self._owners: list[Any] = []
        self._views: list[npt.NDArray[Any]] = []  # of each buffer, if it lies in host memory
        self._pointers = [allocate(slots) for _ in self.names]
        self._device_bytes = 0 if self.in_host_memory else len(self.names) * slots * self.row_bytes
        DeviceMemory.add(self._device_bytes)

    @property
    def in_host_memory(self) -> bool:
        """Whether rows can be copied, saved and restored."""
        return self.device == "cpu"

    def copy(self, source: int, target: int, tokens: int, start: int = 0) -> None:
        """Overwrite positions start..tokens of row `target` with those of `source`; no page beyond is touched."""
        for view in self._views:
            view[target, :, start:tokens] = view[source, :, start:tokens]

    def save(self, slot: int, tokens: int, start: int = 0) -> npt.NDArray[Any]:
        """A copy [2 * layers, kv_heads, tokens - start, head_dim] of the row's positions start..tokens.

        Its memory is mapped: malloc would keep holes of tens of megabytes when such copies come and go.
        """
        heads, _, head_dim = self.row_shape
        shape = (len(self._views), heads, tokens - start, head_dim)
        size = int(np.prod(shape)) * np.dtype(self.dtype).itemsize
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        saved: npt.NDArray[Any] = np.ndarray(shape, self.dtype, buffer=memory)
        for view, part in zip(self._views, saved, strict=True):
            part[:] = view[slot, :, start:tokens]
        return saved

    def restore(self, slot: int, saved: npt.NDArray[Any], tokens: int, start: int = 0) -> None:
        """Overwrite the row's positions start..tokens with the first ones of `saved`."""
        for view, part in zip(self._views, saved, strict=True):
            view[slot, :, start:tokens] = part[:, : tokens - start]

    def _map(self, slots: int) -> int:
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)
        memory = mmap.mmap(-1, slots * self.row_bytes, flags=flags)
        array = np.frombuffer(memory, dtype=np.uint8)
        self._owners.append(array)
        self._views.append(array.view(self.dtype).reshape(slots, *self.row_shape))
        return int(array.ctypes.data)

    def _on_device(self, slots: int) -> int:
        shape = (slots, *self.row_shape)
        try:
            value = ort.OrtValue.ortvalue_from_shape_and_type(shape, self.dtype, self.device, 0)
        except Exception as error:  # ONNX Runtime's exceptions share no base below Exception
            whole = len(self.names) * slots * self.row_bytes / 1e6
            raise ModelFileError(
                f"{self.device} has no room for a KV cache of {whole:,.0f} MB, {slots:,} slots of "
                f"{self.row_shape[1]:,} tokens; lower num_ctx or OLLAMA_NUM_PARALLEL"
            ) from error
        self._owners.append(value)
        return int(value.data_ptr())

    def bind(self, binding: Any, first: int, rows: int) -> None:
        """Bind slots first..first+rows-1 as past and as present, in place."""
        shape = (rows, *self.row_shape)
        for (past, present), pointer in zip(self.names, self._pointers, strict=True):
            at = pointer + first * self.row_bytes
            binding.bind_input(past, self.device, 0, self.dtype, shape, at)
            binding.bind_output(present, self.device, 0, self.dtype, shape, at)

    def close(self) -> None:
        """Give the memory back; no binding may be used afterwards."""
        self._views.clear()
        self._owners.clear()
        self._pointers.clear()
        DeviceMemory.add(-self._device_bytes)
        self._device_bytes = 0
