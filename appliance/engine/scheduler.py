"""Which rows run in a step."""

from __future__ import annotations

from collections import deque

from appliance.engine.backend import Row
from appliance.engine.sequence import Sequence
from appliance.engine.timing import DecodeTime, PrefillTime

LEAST_CHUNK_TOKENS = 16
FIRST_CHUNK_TOKENS = 64  # before the speed of this model on this machine is known
ALONE_FACTOR = 4  # how much longer a step may take when nobody waits for it
GROWTH = 2  # how much longer than the last ones a chunk may be: what is known of theirs need not hold for it
DECODE_SHARE = 0.5  # of a step at most, however long decoding takes: a prompt has to get on too


class Scheduler:
    """Waiting and running requests, first come first served.

    A step runs one chunk of one prompt, alone, and then the newest token of every request that is past its
    prompt, together. So rows of very different length are never padded to each other, and a long prompt never
    holds the others up for longer than a step, whose chunk is sized by the speed measured so far to take about
    `step_s` seconds with the decoding behind it. Prompts take turns chunk by chunk.

    A request may draft tokens while no other waits for its next: a drafted row runs as long as several others.
    """

    def __init__(self, chunk_tokens: int, step_s: float) -> None:
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self._chunk_tokens = chunk_tokens
        self._step_s = step_s
        self._prefill_time = PrefillTime()
        self._decode_time = DecodeTime()
        self._decode_s = 0.0  # the last decoding step's
        self._last_chunk = 0
        self._turn = 0

    def prefill(self) -> list[tuple[Sequence, Row]]:
        """The next prompt chunk to run: one pair, or none."""
        prompts = [sequence for sequence in self.running if sequence.prefilling]
        if not prompts:
            return []
        self._turn += 1
        sequence = prompts[self._turn % len(prompts)]
        assert sequence.slot
        chunk = self.chunk(len(sequence.slot.tokens), alone=len(self.running) == 1)
        return [(sequence, sequence.next_row(chunk, None if sequence.reading else self._times()))]

    def decode(self) -> list[tuple[Sequence, Row]]:
        """The newest token of every request that is past its prompt, in slot order."""
        times = self._times()
        pairs = [(sequence, sequence.next_row(1, times)) for sequence in self.running if not sequence.prefilling]
        return sorted(pairs, key=lambda pair: pair[1].slot)

    def _times(self) -> DecodeTime | None:
        """What drafts are judged by, while one request alone is past its prompt."""
        return self._decode_time if sum(not sequence.reading for sequence in self.running) == 1 else None

    def chunk(self, past: int, *, alone: bool) -> int:
        """Tokens of a prompt to run in one step after `past` others, at most the configured number."""
        if not self._prefill_time.known:
            return min(FIRST_CHUNK_TOKENS, self._chunk_tokens)
        if alone:
            fitting = self._prefill_time.tokens_in(ALONE_FACTOR * self._step_s, past)
        else:
            left_s = self._step_s - min(self._decode_s, DECODE_SHARE * self._step_s)
            fitting = min(self._prefill_time.tokens_in(left_s, past), GROWTH * self._last_chunk)
        return min(max(fitting, LEAST_CHUNK_TOKENS), self._chunk_tokens)

    def observe(self, rows: list[Row], seconds: float) -> None:
        """Learn from a run. Short chunks say nothing of the speed of long ones."""
        tokens = max(len(row.tokens) for row in rows)
        if tokens >= LEAST_CHUNK_TOKENS:
            self._last_chunk = max(tokens, self._last_chunk // GROWTH)
            self._prefill_time.observe(tokens, rows[0].past, seconds)
        else:
            self._decode_s = seconds
            if len(rows) == 1:
                self._decode_time.observe(tokens, seconds)
