"""Answers that are held to a format: of a model that thinks, the answer is, and the thoughts before it are free."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Protocol

from appliance.core import DoneReason, Metrics, Reply, SamplingParams
from appliance.engine.constrain import Constraint
from appliance.errors import PromptTooLong
from appliance.generation import Prompt
from appliance.parsing import parsed
from appliance.prompt.parsers.base import OutputParser
from appliance.prompt.tokenizer import Tokenizer


class Run(Protocol):
    """Runs a prompt; closing the generator cancels it."""

    def __call__(
        self, prompt: Prompt, sampling: SamplingParams, *, constraint: Constraint | None
    ) -> AsyncGenerator[Reply, None]: ...


async def formatted(
    run: Run,
    tokenizer: Tokenizer,
    parser: OutputParser,
    prompt: Prompt,
    sampling: SamplingParams,
    constraint: Constraint,
    *,
    num_ctx: int,
    thinks: bool,
) -> AsyncGenerator[Reply, None]:
    """The replies of one answer; where the model `thinks`, those of two runs (spec 1.4).

    The first is free and is cancelled when the answer begins; the second has the thoughts in its prompt, and its text
    is the answer. An answer that is a tool call needs no second one. Raises OutputError, PromptTooLong.
    """
    thoughts = Thoughts(run(prompt, sampling, constraint=None) if thinks else None, parser)
    async with contextlib.aclosing(thoughts.replies()) as replies:
        async for reply in replies:
            yield reply
    if thoughts.ended:
        return
    opening = parser.opening(thoughts.output)
    tokens = continued(tokenizer, prompt, opening)
    spent = len(tokens) - len(prompt.tokens)
    if spent and len(tokens) >= num_ctx:
        raise PromptTooLong(len(tokens), num_ctx)
    left = max(sampling.num_predict - (spent if thinks else 0), 0) if sampling.num_predict >= 0 else -1
    second = replace(prompt, text=prompt.text + opening, tokens=tokens)
    answer = run(second, replace(sampling, num_predict=left), constraint=constraint)
    async with contextlib.aclosing(answer) as replies:
        async for reply in replies:
            metrics = reply.metrics
            if metrics and thinks:
                metrics = thoughts.added(metrics, prompt_tokens=len(prompt.tokens), thought_tokens=spent)
            yield replace(reply, metrics=metrics)


def continued(tokenizer: Tokenizer, prompt: Prompt, opening: str) -> tuple[int, ...]:
    """The tokens of a prompt and what has been said after it."""
    if not opening:
        return prompt.tokens
    if tuple(tokenizer.encode(prompt.text, add_bos=True)) == prompt.tokens:
        return tuple(tokenizer.encode(prompt.text + opening, add_bos=True))
    # the prompt was cut, or begins with tokens that a client sent
    return (*prompt.tokens, *tokenizer.encode(opening, add_bos=False))


class Thoughts:
    """The run that comes first: what it said, how long it took, and whether there is nothing to follow it."""

    def __init__(self, run: AsyncGenerator[Reply, None] | None, parser: OutputParser) -> None:
        self._run = run
        self._parser = parser
        self._began_ns = self._spoke_ns = self._ended_ns = time.monotonic_ns()
        self.output = ""
        self.ended = False

    async def replies(self) -> AsyncGenerator[Reply, None]:
        """The thoughts, and all else where no answer follows: calls, or nothing as no more tokens were allowed."""
        if self._run is None:
            return
        called = False
        async with contextlib.aclosing(parsed(self._recorded(self._run), self._parser)) as replies:
            async for reply in replies:
                called = called or bool(reply.tool_calls)
                if reply.done:
                    self.ended = called or reply.done_reason is DoneReason.LENGTH
                    if self.ended:
                        yield reply
                elif reply.text and not called:
                    if reply.thinking:
                        yield Reply(thinking=reply.thinking)
                    break
                else:
                    yield reply
        self._ended_ns = time.monotonic_ns()

    async def _recorded(self, run: AsyncGenerator[Reply, None]) -> AsyncGenerator[Reply, None]:
        async with contextlib.aclosing(run) as replies:
            async for reply in replies:
                if self._spoke_ns == self._began_ns:
                    self._spoke_ns = time.monotonic_ns()
                self.output += reply.text
                yield reply

    def added(self, metrics: Metrics, *, prompt_tokens: int, thought_tokens: int) -> Metrics:
        """The figures of both runs: the prompt counts once, the thoughts as generated."""
        return replace(
            metrics,
            prompt_tokens=prompt_tokens,
            prompt_ns=metrics.prompt_ns + self._spoke_ns - self._began_ns,
            generated_tokens=metrics.generated_tokens + thought_tokens,
            generate_ns=metrics.generate_ns + self._ended_ns - self._spoke_ns,
        )
