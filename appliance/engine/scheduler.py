"""Which rows run in a step."""

from __future__ import annotations

from collections import deque

from appliance.engine.backend import Row
from appliance.engine.sequence import Sequence


class Scheduler:
    """Waiting and running requests, first come first served.

    A step runs one chunk of one prompt, alone, and then the newest token of every request that is past its
    prompt, together. So a long prompt never holds the others up for longer than a chunk, and rows of very
    different length are never padded to each other. Prompts take turns chunk by chunk.
    """

    def __init__(self, chunk_tokens: int) -> None:
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self._chunk_tokens = chunk_tokens
        self._turn = 0

    def prefill(self) -> list[tuple[Sequence, Row]]:
        """The next prompt chunk to run: one pair, or none."""
        prompts = [sequence for sequence in self.running if sequence.prefilling]
        if not prompts:
            return []
        self._turn += 1
        sequence = prompts[self._turn % len(prompts)]
        return [(sequence, sequence.next_row(self._chunk_tokens))]

    def decode(self) -> list[tuple[Sequence, Row]]:
        """The newest token of every request that is past its prompt, in slot order."""
        pairs = [(sequence, sequence.next_row(1)) for sequence in self.running if not sequence.prefilling]
        return sorted(pairs, key=lambda pair: pair[1].slot)
