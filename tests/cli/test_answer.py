"""What a stream of events looks like on the screen."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest

from appliance.cli.answer import Answer, WordWrap, print_events, timings


def screen(text: str) -> list[str]:
    """The lines of a terminal after `text` was written to it."""
    lines = [""]
    for part in re.findall(r"\x1b\[\d*[A-Z]|.|\n", text):
        if part == "\n":
            lines.append("")
        elif part.startswith("\x1b[") and part.endswith("D"):
            lines[-1] = lines[-1][: -int(part[2:-1])]
        elif part != "\x1b[K":
            lines[-1] += part
    return lines


@pytest.mark.parametrize("step", [1, 3, 100])
def test_lines_break_between_words_however_the_text_arrives(step: int) -> None:
    text = "The sky is blue because air scatters short waves of light more than long ones."
    wrap = WordWrap(25)
    written = "".join(wrap.push(text[i : i + step]) for i in range(0, len(text), step))
    lines = screen(written)
    assert [line.strip() for line in lines] == [
        "The sky is blue",
        "because air scatters",
        "short waves of light",
        "more than long ones.",
    ]
    assert max(map(len, lines)) <= 20


def test_a_word_longer_than_a_line_is_cut() -> None:
    lines = screen(WordWrap(25).push("x" * 45))
    assert "".join(lines) == "x" * 45
    assert max(map(len, lines)) <= 20


def test_line_breaks_of_the_text_stay() -> None:
    assert WordWrap(25).push("one\n\ntwo") == "one\n\ntwo"


def test_thinking_is_framed() -> None:
    out = io.StringIO()
    answer = Answer(out)
    events: list[dict[str, Any]] = [
        {"message": {"thinking": "Hm, "}},
        {"message": {"thinking": "yes."}},
        {"message": {"content": "Blue"}},
        {"message": {"content": "."}, "done": True},
    ]
    assert print_events(events, answer, lambda event: event["message"]) == events[-1]
    assert out.getvalue() == "Thinking...\nHm, yes.\n...done thinking.\n\nBlue."
    assert (answer.thinking, answer.content) == ("Hm, yes.", "Blue.")


def shown(*messages: dict[str, Any], **settings: Any) -> str:
    """What is on the screen after an answer of these pieces."""
    answer = Answer(out := io.StringIO(), **settings)
    for message in messages:
        answer.push(message)
    answer.close()
    return out.getvalue()


def test_thinking_can_be_hidden() -> None:
    assert shown({"thinking": "Hm."}, {"content": "Blue."}, hide_thinking=True) == "Blue.\n\n"
    assert shown({"thinking": "Hm."}, hide_thinking=True) == "\n"


def test_thinking_is_grey_and_its_frame_closed_even_if_no_answer_follows() -> None:
    assert shown({"thinking": "Hm.\n"}, color=True) == "\x1b[90mThinking...\nHm.\n...done thinking.\n\n\x1b[39m\n"
    assert shown({"thinking": "Hm.", "content": "Blue."}) == "Thinking...\nHm.\n...done thinking.\n\nBlue.\n\n"


def test_calls_of_tools_stand_in_lines_of_their_own() -> None:
    weather = {"function": {"name": "weather", "arguments": {"city": "Zürich", "days": 2}}}
    now = {"function": {"name": "now", "arguments": {}}}
    lines = 'Tool call: weather({"city": "Zürich", "days": 2})\nTool call: now({})\n\n'
    assert shown({"tool_calls": [weather, now]}) == lines
    assert shown({"content": "Let me see."}, {"tool_calls": [weather, now]}) == f"Let me see.\n{lines}"
    assert shown({"content": "So:\n"}, {"tool_calls": [weather]}, {"tool_calls": [now]}) == f"So:\n{lines}"


def test_wide_characters_take_two_columns() -> None:
    lines = screen(WordWrap(25).push("天空之所以是蓝色的是因为空气散射短波"))
    assert max(map(len, lines)) == 10


def test_timings() -> None:
    event = {
        "total_duration": 312_000_000,
        "load_duration": 15_000_000,
        "prompt_eval_count": 26,
        "prompt_eval_duration": 130_000_000,
        "eval_count": 3,
        "eval_duration": 1_500_000_000,
    }
    assert timings(event) == (
        "total duration:       312ms\n"
        "load duration:        15ms\n"
        "prompt eval count:    26 token(s)\n"
        "prompt eval duration: 130ms\n"
        "prompt eval rate:     200.00 tokens/s\n"
        "eval count:           3 token(s)\n"
        "eval duration:        1.5s\n"
        "eval rate:            2.00 tokens/s\n"
    )


def test_timings_leave_out_what_is_zero() -> None:
    assert timings({"total_duration": 1000, "load_duration": 0}) == "total duration:       1µs\n"
