"""One request on its way through the engine."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from itertools import takewhile
from typing import Protocol

import numpy as np
import numpy.typing as npt

from appliance.core import Chunk, DoneReason, Request, TokenLogprob, Usage
from appliance.engine.backend import Logits, Row
from appliance.engine.calls import CallConstraint
from appliance.engine.constrain import Constraint
from appliance.engine.draft import MAX_DRAFT_TOKENS, Drafter, worthwhile
from appliance.engine.sampling import Sampler, log_probabilities
from appliance.engine.slots import MIN_PREFILL_TOKENS, Slot
from appliance.engine.stopping import StopGate
from appliance.engine.timing import DecodeTime

log = logging.getLogger(__name__)

Emit = Callable[[Chunk | Exception], None]
"""Called on the engine's thread with each chunk; an exception, or a chunk with a done reason, is the last."""


class TextStream(Protocol):
    """Turns tokens into text, never half a character."""

    def push(self, token: int) -> str: ...
    def flush(self) -> str: ...


class Vocabulary(Protocol):
    """What the engine needs of a tokenizer."""

    def token_text(self, token: int) -> str: ...
    def stream(self, prompt: tuple[int, ...], shown: Mapping[int, str]) -> TextStream: ...


@dataclass(slots=True)
class Totals:
    """Tokens of all requests of an engine; see EngineStats. Written by the engine's thread alone."""

    prompt: int = 0
    cached: int = 0
    evaluated: int = 0
    generated: int = 0
    drafted: int = 0
    accepted: int = 0


class Sequence:
    """Tokens, slot and output state of a request. Belongs to the engine's thread.

    The slot names the tokens that are in the cache; drafted ones only once they have been sampled too.
    """

    def __init__(
        self,
        request: Request,
        emit: Emit,
        vocabulary: Vocabulary,
        eos: frozenset[int],
        totals: Totals,
        *,
        speculate: bool = False,
    ) -> None:
        self.request = request
        self.emit = emit
        self.slot: Slot | None = None
        self.tokens = list(request.tokens)
        self._vocabulary = vocabulary
        self._eos = eos
        self._totals = totals
        self._sampler = Sampler(request.sampling, request.num_ctx)
        self._gate = StopGate(request.sampling.stop)
        self._stream = vocabulary.stream(request.tokens, request.shown)
        self._budget = budget(request)
        self._generated = 0
        self._cached = 0
        self._constraint: Constraint | CallConstraint | None = request.constraint
        self._mask: Future[npt.NDArray[np.bool_] | None] | None = None
        self._fast_forward = not request.sampling.logprobs  # a forced token has no logits of its own
        self._drafter = Drafter(request.tokens) if speculate else None
        self._ahead: deque[int] = deque()  # drafted tokens that are in the cache behind those that the slot names
        self._head = self._force_head()
        self._started_ns = self._first_ns = 0

    @property
    def drafting(self) -> bool:
        """Whether tokens may be guessed."""
        return self._drafter is not None

    @property
    def prefilling(self) -> bool:
        """Whether more than the newest token still has to enter the cache."""
        return self.slot is not None and len(self.tokens) - len(self.slot.tokens) > 1

    @property
    def reading(self) -> bool:
        """Whether the prompt is still on its way into the cache."""
        return self.prefilling and not self._generated

    @property
    def held_s(self) -> float:
        """For how long the request has had its slot, in seconds."""
        return (time.monotonic_ns() - self._started_ns) / 1e9

    @property
    def finished_before_start(self) -> bool:
        """Whether no token may be generated at all."""
        return self._budget == 0

    def start(self, slot: Slot) -> None:
        """Take a slot; what it holds of the prompt need not be evaluated again."""
        self.slot = slot
        self._started_ns = time.monotonic_ns()
        self._totals.prompt += len(self.request.tokens)
        self.reuse(len(slot.tokens))

    def reuse(self, tokens: int) -> None:
        """Take note of prompt tokens that another request has evaluated."""
        self._cached += tokens
        self._totals.cached += tokens

    def next_row(self, chunk: int, times: DecodeTime | None = None) -> Row:
        """The next at most `chunk` tokens to run; never all but one of a prompt (see slots.MIN_PREFILL_TOKENS).

        With `times`, of runs of this row alone, drafted tokens come along where that promises more tokens a second.
        """
        slot = self._slot()
        past = len(slot.tokens)
        left = len(self.tokens) - past
        if left > chunk > 1 and left - chunk < MIN_PREFILL_TOKENS:
            chunk -= 1
        tokens = tuple(self.tokens[past : past + chunk])
        if len(tokens) < left:
            return Row(slot.index, past, tokens, logits=0)
        draft = self._draft(len(tokens), times) if times else ()
        self._totals.drafted += len(draft)
        return Row(slot.index, past, tokens + draft, logits=1 + len(draft))

    def _draft(self, tokens: int, times: DecodeTime) -> tuple[int, ...]:
        """What to guess beyond the `tokens` that run anyway."""
        if not (self._drafter and times.known):
            return ()
        room = self.request.num_ctx - len(self.tokens)
        guess = self._drafter.guess(min(MAX_DRAFT_TOKENS, room, self._budget - self._generated - 1))
        count = worthwhile(self._drafter.chances(guess), lambda more: times.seconds(tokens + more))
        draft = tuple(takewhile(lambda token: token not in self._eos, guess.tokens[:count]))
        return draft[: self._constraint.reach(draft)] if self._constraint and draft else draft

    def prepare(self, executor: Executor) -> None:
        """Begin with the mask of the next position, beside the run whose logits it is for."""
        if self._constraint and self._constraint.active:
            self._mask = executor.submit(self._constraint.mask)

    def accept(self, row: Row, logits: Logits) -> bool:
        """Take note of a finished row and its logits [row.logits, V]; sample where the newest token has some.

        True when the request is done.
        """
        slot = self._slot()
        known = len(row.tokens) - max(row.logits - 1, 0)
        slot.tokens.extend(row.tokens[:known])
        self._ahead = deque(row.tokens[known:])
        if not row.logits:
            return False
        if not self._first_ns:
            self._first_ns = time.monotonic_ns()
        for token in self._take_head():
            if self._say(token):
                return True
        while len(slot.tokens) == len(self.tokens):
            if self._advance(logits[len(slot.tokens) - row.past - known]):
                return True
        return False

    def _advance(self, logits: Logits) -> bool:
        """Sample the next token from its logits [V]. True when the request is done."""
        allowed = self._allowed()
        token = self._sampler.sample(logits, self.tokens, allowed)
        if token in self._eos:
            self._count()
            self.finish(DoneReason.STOP)
            return True
        self._append(token)
        return self._say(token, self._logprobs(token, logits)) or self._follow(token)

    def _allowed(self) -> npt.NDArray[np.bool_] | None:
        """The mask [V] of what the grammar lets through. Raises InvalidRequest when it outgrows its limits."""
        prepared, self._mask = self._mask, None
        if prepared:
            return prepared.result()
        return self._constraint.mask() if self._constraint and self._constraint.active else None

    def _append(self, token: int) -> None:
        """Go on with a token, which is in the cache already if it was drafted."""
        self.tokens.append(token)
        if self._drafter:
            self._drafter.push(token)
        if self._ahead and self._ahead[0] == token:
            self._slot().tokens.append(self._ahead.popleft())
            self._totals.accepted += 1
        else:
            self._ahead.clear()

    def _follow(self, token: int) -> bool:
        """Go on in the grammar: take the tokens that it forces, end where it ends. True when the request is done."""
        constraint = self._constraint
        if constraint is None:
            return False
        constraint.accept(token)
        constraint.end_within(min(self._budget - self._generated, self.request.num_ctx - len(self.tokens)))
        for forced in constraint.forced() if self._fast_forward else ():
            constraint.accept(forced)
            self._append(forced)
            if self._say(forced):
                return True
        if constraint.finished:
            self.finish(DoneReason.STOP)
            return True
        return False

    def _say(self, token: int, logprobs: tuple[TokenLogprob, ...] = ()) -> bool:
        """Emit what a new token makes final. True when the request is done."""
        self._count()
        text, stopped = self._gate.push(self._stream.push(token))
        if stopped:
            self.finish(DoneReason.STOP, text, logprobs, cut=True)
            return True
        full = len(self.tokens) > self.request.num_ctx
        if (full and not self.request.shift) or self._generated == self._budget:
            self.finish(DoneReason.LENGTH, text, logprobs)
            return True
        if full:
            self._shift()
        if text or logprobs:
            self.emit(Chunk(text=text, tokens=(token,), logprobs=logprobs))
        return False

    def _count(self) -> None:
        self._generated += 1
        self._totals.generated += 1

    def _force_head(self) -> list[int]:
        """The tokens that every answer begins with; they join the prompt, so that one run reads both."""
        constraint = self._constraint
        if constraint is None or not self._fast_forward:
            return []
        head = constraint.forced()
        if len(self.tokens) + len(head) > self.request.num_ctx or len(head) >= self._budget:
            return []
        for token in head:
            constraint.accept(token)
            self._append(token)
        return head

    def _take_head(self) -> list[int]:
        head, self._head = self._head, []
        return head

    def finish(
        self,
        reason: DoneReason,
        text: str = "",
        logprobs: tuple[TokenLogprob, ...] = (),
        *,
        cut: bool = False,
    ) -> None:
        """Emit what is held back (unless a stop string cut it off), then the closing chunk with the usage."""
        if not cut:
            text += self._gate.push(self._stream.flush())[0] + self._gate.flush()
        if text or logprobs:
            self.emit(Chunk(text=text, logprobs=logprobs))
        self.emit(Chunk(done_reason=reason, usage=self._usage()))

    def _shift(self) -> None:
        """Make room: keep the first num_keep tokens and the newer half of the rest.

        The kept tail changes position, so it is evaluated again; that is exact where rotating cached keys
        is not.
        """
        slot = self._slot()
        keep = min(max(self.request.sampling.num_keep, 0), self.request.num_ctx // 2)
        if self.request.sampling.num_keep < 0:
            keep = min(len(self.request.tokens), self.request.num_ctx // 2)
        discard = max((self.request.num_ctx - keep) // 2, 1)
        log.warning("a full context of %d tokens forgets %d behind its first %d", self.request.num_ctx, discard, keep)
        del self.tokens[keep : keep + discard]
        del slot.tokens[keep:]
        self._ahead.clear()

    def _logprobs(self, token: int, logits: Logits) -> tuple[TokenLogprob, ...]:
        sampling = self.request.sampling
        if not sampling.logprobs:
            return ()
        own, best = log_probabilities(logits, token, sampling.top_logprobs)
        name = self._vocabulary.token_text
        top = tuple(TokenLogprob(name(other), value) for other, value in best)
        return (TokenLogprob(name(token), own, top),)

    def _usage(self) -> Usage:
        now = time.monotonic_ns()
        started = self._started_ns or now
        first = self._first_ns or now
        return Usage(
            prompt_tokens=len(self.request.tokens),
            cached_tokens=min(self._cached, len(self.request.tokens)),  # an answer's forced head may be cached too
            generated_tokens=self._generated,
            prompt_ns=max(first - started, 1),
            generate_ns=max(now - first, 1),
        )

    def _slot(self) -> Slot:
        assert self.slot is not None
        return self.slot


def budget(request: Request) -> int:
    """How many tokens may be generated: Ollama bounds num_predict by ten times the context."""
    most = 10 * request.num_ctx
    wanted = request.sampling.num_predict
    return most if wanted < 0 else min(wanted, most)
