"""Decode steps on CUDA, recorded once and then replayed, so that the host no longer starts each kernel.

SmolLM2's 8-bit weights on an H100, one row: 3.3 ms a step when the host starts its kernels, 1.6 ms replayed. What
CUDA calls a graph is here a recording; see enable_cuda_graph of ONNX Runtime's CUDA execution provider.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from appliance.engine.arena import Arena
from appliance.engine.backend import Logits, Row
from appliance.engine.providers import NOT_RECORDED, run_options


class RecordedStep:
    """One token each of `count` slots from `first` on; the second run is recorded, later ones replay it.

    A recording holds on to addresses, so what it reads and writes lies on the device and stays where it is. The host
    reads `total_sequence_length` alone, which is the capacity then: attention goes by `seqlens_k`.
    """

    def __init__(self, session: Any, arena: Arena, vocab_size: int, first: int, count: int, number: int) -> None:
        """`number` tells the session's recordings apart: any but NOT_RECORDED and 0, which is ONNX Runtime's own."""
        assert number not in (NOT_RECORDED, 0)
        self._session = session
        self._device = arena.device
        self._options = run_options(recording=number)
        self._binding = session.io_binding()
        arena.bind(self._binding, first, count)
        self._ids = self._bound("input_ids", np.zeros((count, 1), np.int64))
        self._seqlens = self._bound("seqlens_k", np.zeros(count, np.int32))
        self._bound("logit_rows", np.zeros((count, 1), np.int64))
        total = ort.OrtValue.ortvalue_from_numpy(np.array(arena.row_shape[1], np.int32))
        self._binding.bind_ortvalue_input("total_sequence_length", total)
        self._logits = self._on_device(np.zeros((count, 1, vocab_size), np.float32))
        self._binding.bind_ortvalue_output("logits", self._logits)

    def run(self, rows: list[Row]) -> list[Logits]:
        """See Backend.run: a row with one token for every slot, in their order."""
        self._ids.update_inplace(np.array([row.tokens for row in rows], np.int64))
        self._seqlens.update_inplace(np.array([row.past for row in rows], np.int32))
        self._session.run_with_iobinding(self._binding, self._options)
        return list(self._logits.numpy())

    def _bound(self, name: str, array: npt.NDArray[Any]) -> Any:
        value = self._on_device(array)
        self._binding.bind_ortvalue_input(name, value)
        return value

    def _on_device(self, array: npt.NDArray[Any]) -> Any:
        return ort.OrtValue.ortvalue_from_numpy(array, self._device, 0)


def can_record(rows: list[Row]) -> bool:
    """Whether a run is a decode step of a whole range of slots."""
    whole = rows[-1].slot - rows[0].slot + 1 == len(rows)
    return whole and all(len(row.tokens) == row.logits == 1 for row in rows)
