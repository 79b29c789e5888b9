"""The narrow waist between the loop and whatever runs the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Logits = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Row:
    """One slot's part of a run: `tokens` continue the `past` tokens already in the slot's KV cache.

    `logits` is how many of the last tokens need logits; 0 says that nobody will read any.
    """

    slot: int
    past: int
    tokens: tuple[int, ...]
    logits: int = 1


SavedPrefix = npt.NDArray[Any]
"""Successive positions of a row's KV cache in host memory; only the backend that saved them knows what its axes are."""


class Backend(Protocol):
    """A loaded model with a KV cache of `slots` rows, each `capacity` tokens long. Used by one thread."""

    slots: int
    capacity: int
    vocab_size: int
    memory_bytes: int
    """Memory held by weights, in bytes."""
    accelerated: bool
    """Whether an accelerator runs the graph, with the weights in its memory."""
    provider: str
    """The execution provider that runs the graph, as shown to people: CPU, CUDA, DirectML."""

    kv_bytes_per_token: int
    """Bytes of one token in the KV cache, and in what `save` returns."""
    same_in_any_width: bool
    """Whether a run of several tokens gives the logits of runs one by one, but for the last bits of a float32."""
    can_copy: bool
    """Whether `copy`, `save` and `restore` may be called: the KV cache lies in host memory."""

    def run(self, rows: list[Row]) -> list[Logits]:
        """Append every row's tokens to its slot's cache; returns logits [row.logits, vocab_size] for each row.

        Rows come in ascending slot order and each slot at most once. The results may be views that the
        next run overwrites. Cache content past `past` is overwritten: to forget, run with a smaller `past`.
        """

    def copy(self, source: int, target: int, tokens: int, start: int = 0) -> None:
        """Overwrite the positions from `start` to `tokens` of slot `target` with those of slot `source`."""

    def save(self, slot: int, tokens: int, start: int = 0) -> SavedPrefix:
        """A copy of the slot's positions from `start` to `tokens`."""

    def restore(self, slot: int, saved: SavedPrefix, tokens: int, start: int = 0) -> None:
        """Overwrite the slot's positions from `start` to `tokens` with the first ones of what `save` returned."""

    def close(self) -> None:
        """Release sessions and memory. The backend cannot be used afterwards."""
