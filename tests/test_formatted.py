"""Answers of a format behind thoughts that are free: what runs, with which prompt, and what a client sees of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import pytest

from appliance.core import DoneReason, Metrics, Reply, SamplingParams
from appliance.errors import PromptTooLong
from appliance.formatted import formatted
from appliance.generation import Prompt
from appliance.prompt.parsers.base import Expected, OutputParser
from appliance.prompt.parsers.families import FAMILIES

METRICS = Metrics(total_ns=60, load_ns=5, prompt_tokens=9, prompt_ns=3, generated_tokens=2, generate_ns=1)
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {}}}
JSON = ("{", "}")


class Letters:
    """A tokenizer whose tokens are characters."""

    def encode(self, text: str, add_bos: bool) -> list[int]:
        return [ord(letter) for letter in text]


class Engine:
    """Says one list of pieces per run; remembers what it was asked, and how many of its pieces it came to say."""

    def __init__(self, *runs: Sequence[str], reason: DoneReason = DoneReason.STOP) -> None:
        self._runs = list(runs)
        self._reason = reason
        self.asked: list[tuple[str, int, Any]] = []
        self.said: list[int] = []
        self.closed = 0

    async def __call__(
        self, prompt: Prompt, sampling: SamplingParams, *, constraint: Any
    ) -> AsyncGenerator[Reply, None]:
        assert "".join(map(chr, prompt.tokens)) == prompt.text
        self.asked.append((prompt.text, sampling.num_predict, constraint))
        self.said.append(0)
        try:
            for piece in self._runs.pop(0):
                self.said[-1] += 1
                yield Reply(text=piece)
            yield Reply(done=True, done_reason=self._reason, metrics=METRICS)
        finally:
            self.closed += 1


def parser(family: str, prompt: str, think: bool = True) -> OutputParser:
    return FAMILIES[family](Expected((TOOL,), think, prompt))


def run(
    engine: Engine, family: str = "qwen3-thinking", prompt: str = "A:", *, think: bool = True, budget: int = -1
) -> list[Reply]:
    async def collect() -> list[Reply]:
        answer = formatted(
            engine,
            Letters(),  # type: ignore[arg-type]
            parser(family, prompt, think),
            Prompt(prompt, tuple(map(ord, prompt))),
            SamplingParams(num_predict=budget),
            "grammar",  # type: ignore[arg-type]
            num_ctx=200,
            thinks=think,
        )
        return [reply async for reply in answer]

    return asyncio.run(collect())


def spoken(replies: Sequence[Reply]) -> tuple[str, str]:
    return "".join(reply.thinking for reply in replies), "".join(reply.text for reply in replies)


@pytest.mark.spec(49)
def test_the_second_run_follows_the_thoughts() -> None:
    engine = Engine(["<think>\n", "Hm.", "\n</thi", "nk>\n\n", "The sum", " is", " 7"], JSON)
    replies = run(engine, budget=100)
    assert spoken(replies) == ("Hm.", "{}")
    opened = "<think>\nHm.\n</think>\n\n"
    assert engine.asked == [("A:", 100, None), ("A:" + opened, 100 - len(opened), "grammar")]
    assert engine.said == [5, 2], "the first run is cancelled when the answer begins"
    assert engine.closed == 2
    (last,) = [reply for reply in replies if reply.done]
    assert last.metrics
    assert (last.metrics.prompt_tokens, last.metrics.generated_tokens) == (2, 2 + len(opened))
    assert last.metrics.prompt_ns > 3
    assert last.metrics.generate_ns > 1


@pytest.mark.spec(50)
@pytest.mark.parametrize(
    ("family", "prompt", "opened"),
    [
        ("qwen3-thinking", "A:", ""),
        ("qwen3-thinking", "A:<think>\n", "\n</think>\n\n"),
        ("harmony", "<|start|>assistant", "<|channel|>final<|message|>"),
    ],
)
def test_without_thoughts_there_is_one_run(family: str, prompt: str, opened: str) -> None:
    engine = Engine(["<tool_call>", "}"])
    replies = run(engine, family, prompt, think=False, budget=7)
    assert engine.asked == [(prompt + opened, 7, "grammar")]
    assert spoken(replies) == ("", "<tool_call>}")
    assert replies[-1].metrics == METRICS


@pytest.mark.spec(49, 51)
def test_harmony_continues_in_the_final_channel() -> None:
    first = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>The sum"
    engine = Engine(list(first), JSON)
    assert spoken(run(engine, "harmony", "<|start|>assistant")) == ("Hm.", "{}")
    assert engine.asked[1][0] == "<|start|>assistant" + first.removesuffix("The sum")


def test_thoughts_without_an_answer_are_closed() -> None:
    engine = Engine(["<think>", "Hm. "], JSON)
    assert spoken(run(engine)) == ("Hm.", "{}")
    assert engine.asked[1][0] == "A:<think>Hm.\n</think>\n\n"


def test_nothing_follows_a_call_or_the_last_token() -> None:
    call = '<think>Hm.</think><tool_call>{"name": "weather", "arguments": {}}</tool_call>'
    replies = run(engine := Engine([call, "\n"]))
    assert [made["function"]["name"] for reply in replies for made in reply.tool_calls] == ["weather"]
    assert (len(engine.asked), replies[-1].done) == (1, True)
    replies = run(engine := Engine(["<think>Hm"], reason=DoneReason.LENGTH), budget=9)
    assert (len(engine.asked), spoken(replies)) == (1, ("Hm", ""))
    assert replies[-1].done_reason is DoneReason.LENGTH


def test_thoughts_that_leave_no_room() -> None:
    with pytest.raises(PromptTooLong):
        run(Engine(["<think>" + "Hm. " * 50 + "</think>7"]))


def test_a_client_that_leaves_ends_either_run() -> None:
    async def leave(after: int) -> int:
        engine = Engine(["<think>Hm.", " Yes.", "</think>7"], ["{", "}"])
        prompt = Prompt("A:", tuple(map(ord, "A:")))
        answer = formatted(
            engine,
            Letters(),  # type: ignore[arg-type]
            parser("qwen3-thinking", "A:"),
            prompt,
            SamplingParams(),
            "grammar",  # type: ignore[arg-type]
            num_ctx=200,
            thinks=True,
        )
        for _ in range(after):
            await anext(answer)
        await answer.aclose()
        return engine.closed - len(engine.asked)

    assert [asyncio.run(leave(after)) for after in (1, 2, 3)] == [0, 0, 0]
