"""An answer taken apart into replies: what leaves when, with which log probabilities (spec 8: 31, 44-46, 52)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence

import pytest

from appliance.core import DoneReason, Metrics, Reply, TokenLogprob
from appliance.errors import OutputError
from appliance.parsing import parsed
from appliance.prompt.parsers.base import OutputParser, Parsed
from appliance.prompt.parsers.tagged import TagParser

METRICS = Metrics(total_ns=6, load_ns=5, prompt_tokens=4, prompt_ns=3, generated_tokens=2, generate_ns=1)
END = Reply(done=True, done_reason=DoneReason.STOP, metrics=METRICS)
WEATHER = '<tool_call>{"name": "get_weather", "arguments": {"city": "Paris"}}</tool_call>'


class Engine:
    """Says its pieces as replies; `closed` once nobody listens any more."""

    def __init__(self, pieces: Sequence[str]) -> None:
        self._pieces = pieces
        self.closed = False

    async def replies(self) -> AsyncGenerator[Reply, None]:
        try:
            for piece in self._pieces:
                yield Reply(text=piece, logprobs=(TokenLogprob(piece, -0.5),))
            yield END
        finally:
            self.closed = True


def run(engine: Engine, parser: OutputParser, *, calls_last: bool = False) -> list[Reply]:
    async def collect() -> list[Reply]:
        return [reply async for reply in parsed(engine.replies(), parser, calls_last=calls_last)]

    return asyncio.run(collect())


def tags() -> TagParser:
    return TagParser("<tool_call>", ["get_weather"])


@pytest.mark.spec(44, 45, 46)
@pytest.mark.parametrize("size", [len(WEATHER), 30, 1])
def test_a_call_has_a_reply_of_its_own_before_the_last(size: int) -> None:
    pieces = [WEATHER[at : at + size] for at in range(0, len(WEATHER), size)]
    replies = run(Engine(pieces), tags())
    (made,) = [reply for reply in replies if reply.tool_calls]
    assert made.text == made.thinking == ""
    (call,) = made.tool_calls
    assert call["function"] == {"index": 0, "name": "get_weather", "arguments": {"city": "Paris"}}
    assert len(call["id"]) == len("call_12345678")
    assert call["id"].startswith("call_")
    assert not any(reply.text for reply in replies)
    assert replies[-1] == END
    told = [each.token for reply in replies for each in reply.logprobs]
    assert told == pieces, "each log probability leaves, though its text is held back"


def test_calls_are_counted_and_no_two_have_the_same_id() -> None:
    replies = run(Engine(["So: ", WEATHER, "\n", WEATHER]), tags())
    calls = [call for reply in replies for call in reply.tool_calls]
    assert [call["function"]["index"] for call in calls] == [0, 1]
    assert len({call["id"] for call in calls}) == 2
    assert "".join(reply.text for reply in replies) == "So: "


@pytest.mark.spec(92)
def test_text_and_a_call_in_one_piece_both_arrive() -> None:
    said, made, _ = run(Engine(["Let me see. " + WEATHER]), tags())
    assert said.text == "Let me see. "
    assert made.tool_calls


def test_generate_has_its_calls_in_the_last_reply_without_ids() -> None:
    *_, last = run(Engine([WEATHER, WEATHER]), tags(), calls_last=True)
    assert last.done
    assert last.metrics == METRICS
    assert [call["function"]["index"] for call in last.tool_calls] == [0, 1]
    assert not any("id" in call for call in last.tool_calls)


def test_what_is_held_back_leaves_before_the_last_reply() -> None:
    replies = run(Engine(["1 ", "< <tool"]), tags())
    assert "".join(reply.text for reply in replies) == "1 < <tool"
    assert replies[-1] == END


class Fussy:
    """Reads nothing."""

    markup = ()

    def feed(self, text: str) -> Parsed:
        if "}" in text:
            raise OutputError("the tool call is malformed")
        return Parsed(text)

    def finish(self) -> Parsed:
        return Parsed()


@pytest.mark.spec(52)
def test_a_parsers_error_ends_the_answer_and_what_makes_it() -> None:
    engine = Engine(["a", "}", "b"])
    with pytest.raises(OutputError, match="malformed"):
        run(engine, Fussy())
    assert engine.closed
