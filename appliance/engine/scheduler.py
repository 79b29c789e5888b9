"""Which rows run in a step."""

from __future__ import annotations

from collections import deque

from appliance.engine.backend import Row
from appliance.engine.sequence import Sequence

LEAST_CHUNK_TOKENS = 16
FIRST_CHUNK_TOKENS = 64  # before the speed of this model on this machine is known
ALONE_FACTOR = 4  # how much longer a step may take when nobody waits for it
MEMORY = 0.7  # weight of the past in the moving average of the speed


class Scheduler:
    """Waiting and running requests, first come first served.

    A step runs one chunk of one prompt, alone, and then the newest token of every request that is past its
    prompt, together. So rows of very different length are never padded to each other, and a long prompt never
    holds the others up for longer than a chunk, which is sized by the speed measured so far to take about
    `step_s` seconds. Prompts take turns chunk by chunk.
    """

    def __init__(self, chunk_tokens: int, step_s: float) -> None:
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self._chunk_tokens = chunk_tokens
        self._step_s = step_s
        self._tokens_per_s: float | None = None
        self._turn = 0

    def prefill(self) -> list[tuple[Sequence, Row]]:
        """The next prompt chunk to run: one pair, or none."""
        prompts = [sequence for sequence in self.running if sequence.prefilling]
        if not prompts:
            return []
        self._turn += 1
        sequence = prompts[self._turn % len(prompts)]
        return [(sequence, sequence.next_row(self.chunk(alone=len(self.running) == 1)))]

    def decode(self) -> list[tuple[Sequence, Row]]:
        """The newest token of every request that is past its prompt, in slot order."""
        pairs = [(sequence, sequence.next_row(1)) for sequence in self.running if not sequence.prefilling]
        return sorted(pairs, key=lambda pair: pair[1].slot)

    def chunk(self, *, alone: bool) -> int:
        """Tokens of a prompt to run in one step, at most the configured number."""
        if self._tokens_per_s is None:
            return min(FIRST_CHUNK_TOKENS, self._chunk_tokens)
        fitting = int(self._tokens_per_s * self._step_s * (ALONE_FACTOR if alone else 1))
        return min(max(fitting, LEAST_CHUNK_TOKENS), self._chunk_tokens)

    def observe(self, tokens: int, seconds: float) -> None:
        """Learn from a run of `tokens` tokens of one prompt. Short ones say nothing of the speed of long ones."""
        if tokens < LEAST_CHUNK_TOKENS or seconds <= 0:
            return
        speed = tokens / seconds
        past = self._tokens_per_s
        self._tokens_per_s = speed if past is None else MEMORY * past + (1 - MEMORY) * speed
