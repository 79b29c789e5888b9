"""Running a bundle's graph with a cache arena, as plainly as can be."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort

from appliance.bundle import MODEL, read_description
from appliance.processor import product_settings

HALF = 0.02  # of the root mean square of what is expected: float16 has 11 bits


def relative_error(actual: np.ndarray, expected: np.ndarray) -> float:
    """The root mean square of the difference, of the expected values' own."""
    return float(np.sqrt(((actual - expected) ** 2).mean() / (expected**2).mean()))


def usual_error(actual: np.ndarray, expected: np.ndarray) -> float:
    """The same for the logits of nine in ten tokens; a router that is in doubt sends the others elsewhere."""
    errors = ((actual - expected) ** 2).mean(axis=-1)
    return float(np.sqrt(np.quantile(errors, 0.9) / (expected**2).mean()))


class Decoder:
    """A graph of a bundle and an arena of `rows` × `capacity` tokens, all zeros."""

    def __init__(self, folder: Path, rows: int = 1, capacity: int = 64, threads: int = 1, graph: str = MODEL) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        for entry in product_settings().items():
            options.add_session_config_entry(*entry)
        self.session = ort.InferenceSession(folder / graph, options, providers=["CPUExecutionProvider"])
        self.inputs = {value.name for value in self.session.get_inputs()}
        bundle = read_description(folder)
        self.rows, self.capacity = rows, capacity
        shape = (rows, bundle.kv_heads, capacity, bundle.head_dim)
        self.cache = {
            f"{kind}.{layer}": ort.OrtValue.ortvalue_from_numpy(np.zeros(shape, bundle.kv_dtype))
            for layer in range(bundle.layers)
            for kind in ("key", "value")
        }

    def step(self, ids: Sequence[Sequence[int]], past: Sequence[int], wanted: Sequence[Sequence[int]]) -> np.ndarray:
        """Run ragged rows `ids` after `past` tokens each; an empty row is idle. Logits [rows, R, vocabulary]."""
        length = max(map(len, ids))
        queries = np.array([len(row) for row in ids], np.int32)
        binding = self.session.io_binding()
        for name, value in self.cache.items():
            binding.bind_ortvalue_input(f"past_{name}", value)
            binding.bind_ortvalue_output(f"present_{name}", value)
        feeds = {
            "input_ids": np.array([[*row, *[0] * (length - len(row))] for row in ids], np.int64),
            "seqlens_k": (np.array(past, np.int32) + queries - 1).astype(np.int32),
            "total_sequence_length": np.array(self.capacity, np.int32),
            "query_seqlens": queries,
            "logit_rows": np.array(wanted, np.int64).reshape(self.rows, -1),
        }
        for name, array in feeds.items():
            if name in self.inputs:  # a graph of one sequence has no query_seqlens
                binding.bind_cpu_input(name, array)
        binding.bind_output("logits")
        self.session.run_with_iobinding(binding)
        logits: np.ndarray = binding.get_outputs()[-1].numpy()
        return logits

    def all_logits(self, ids: Sequence[int]) -> np.ndarray:
        """Logits [len(ids), vocabulary] of a fresh sequence in row 0 of a single-row arena."""
        return self.step([ids], [0], [range(len(ids))])[0]
