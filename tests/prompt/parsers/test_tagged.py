"""The generic parser's transcripts (spec 8, case 92, and the defect of spec 4.4), whole and cut everywhere."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.prompt.parsers.base import Parsed, ToolCall
from appliance.prompt.parsers.tagged import TagParser
from tests.prompt.parsers.transcripts import call, read, read_everywhere_cut

NAMES = ("say", "say_hello", "get_weather", "now")
PARIS = call("get_weather", city="Paris")
WEATHER = '{"name": "get_weather", "arguments": {"city": "Paris"}}'

TRANSCRIPTS: list[tuple[str, str, str, str, tuple[ToolCall, ...]]] = [
    ("text only", "<tool_call>", "Hello, world!", "Hello, world!", ()),
    ("nothing", "<tool_call>", "", "", ()),
    ("a call", "<tool_call>", f"<tool_call>\n{WEATHER}\n</tool_call>", "", (PARIS,)),
    ("text before the tag", "<tool_call>", f"Let me see.\n<tool_call>{WEATHER}</tool_call>", "Let me see.\n", (PARIS,)),
    ("two calls", "<tool_call>", f'<tool_call>{WEATHER}</tool_call>\n<tool_call>\n{{"name": "say", "arguments": '
     '{"text": "hi"}}\n</tool_call>', "", (PARIS, call("say", text="hi"))),
    ("empty arguments, then some", "<tool_call>",
     f'<tool_call>{{"name": "now", "arguments": {{}}}}</tool_call><tool_call>{WEATHER}</tool_call>', "",
     (call("now"), PARIS)),
    ("a tag that never was", "<tool_call>", "1 <tool 2 <tool_cal 3 <", "1 <tool 2 <tool_cal 3 <", ()),
    ("a bare name is no call", "<tool_call>", '<tool_call>{"name": "now"}</tool_call>', "", ()),
    ("nobody declared it", "<tool_call>", '<tool_call>{"name": "rm", "arguments": {"q": "say"}}', "", ()),
    ("a call that never ends", "<tool_call>", f"<tool_call>{WEATHER[:-1]}", "", ()),
    ("names that begin alike", "<tool_call>", '<tool_call>{"name": "say_hello", "arguments": {"to": "you"}}', "",
     (call("say_hello", to="you"),)),
    ("arguments before the name", "<tool_call>", '<tool_call>{"arguments": {"text": "get_weather"}, "name": "say"}',
     "", (call("say", text="get_weather"),)),
    ("parameters", "{", '{"name": "get_weather", "parameters": {"city": "Paris"}}', "", (PARIS,)),
    ("arguments in a string", "{", r'{"name": "get_weather", "arguments": "{\"city\": \"Paris\"}"}', "", (PARIS,)),
    ("parameters in a string", "{", r'{"name": "get_weather", "parameters": "{\"city\": \"Paris\"}"}', "", (PARIS,)),
    ("braces and quotes in strings", "<tool_call>", r'<tool_call>{"name": "say", "arguments": {"text": "}{ \"}\" \\"}}',
     "", (call("say", text='}{ "}" \\'),)),
    ("nested arguments", "<tool_call>", '<tool_call>{"name": "say", "arguments": {"a": {"b": [{"c": 1}]}}}', "",
     (call("say", a={"b": [{"c": 1}]}),)),
    ("JSON that is no call", "{", ' {"answer": [1, 2], "of": "say or now?"} ',
     ' {"answer": [1, 2], "of": "say or now?"} ', ()),
    ("JSON that breaks off", "{", '{"answer": ', '{"answer": ', ()),
    ("JSON behind text", "{", f"Here: {WEATHER}", f"Here: {WEATHER}", ()),
    ("blanks before JSON", "{", f"\n\n {WEATHER}", "", (PARIS,)),
    ("nothing but blanks", "{", " \n", " \n", ()),
    ("a list", "[", f'[{WEATHER}, {{"name": "now", "arguments": {{}}}}]', "", (PARIS, call("now"))),
    ("a list that is no call", "[", "[1, 2, 3]", "[1, 2, 3]", ()),
    ("a list behind a mark", "[TOOL_CALLS]", f'[TOOL_CALLS] [{WEATHER}, {{"name": "now", "arguments": {{}}}}]', "",
     (PARIS, call("now"))),
    ("separated by semicolons", "{", f'{WEATHER}; {{"name": "say", "parameters": {{"text": "ho"}}}}', "",
     (PARIS, call("say", text="ho"))),
    ("the name before the object", "<function=", '<function=get_weather>{"city": "Paris"}</function>', "", (PARIS,)),
    ("the longer name before the object", "<function=", '<function=say_hello>{"to": "you"}</function>', "",
     (call("say_hello", to="you"),)),
    ("the object has a name of its own", "<function=", '<function=say>{"name": "Ada"}</function>', "",
     (call("say", name="Ada"),)),
    ("under the tool's own name", "<tool_call>", '<tool_call>{"get_weather": {"city": "Paris"}}', "", (PARIS,)),
    ("wrapped", "<tool_call>",
     f'<tool_call>{{"tool_calls": [{{"type": "function", "function": {WEATHER}}}, {WEATHER}]}}',
     "", (PARIS, PARIS)),
    ("under another key", "<tool_call>", '<tool_call>{"tool_name": "get_weather", "parameters": {"city": "Paris"}}', "",
     (PARIS,)),
    ("the object itself", "<tool_call>", '<tool_call>{"do": "say", "text": "hi"}', "",
     (call("say", do="say", text="hi"),)),
    ("a line break in a string", "<tool_call>", '<tool_call>{"name": "say", "arguments": {"text": "a\nb"}}', "",
     (call("say", text="a\nb"),)),
    ("half a surrogate pair", "<tool_call>", r'<tool_call>{"name": "say", "arguments": {"text": "\ud83d"}}', "",
     (call("say", text="\N{REPLACEMENT CHARACTER}"),)),
    ("a number that is none", "<tool_call>", '<tool_call>{"name": "say", "arguments": {"n": 1e999}}', "", ()),
    ("broken, then whole", "<tool_call>", f"<tool_call>{{oops}}</tool_call><tool_call>{WEATHER}", "", (PARIS,)),
]  # fmt: skip


@pytest.mark.spec(92)
@pytest.mark.parametrize(
    ("tag", "transcript", "text", "calls"), [case[1:] for case in TRANSCRIPTS], ids=[case[0] for case in TRANSCRIPTS]
)
def test_transcripts(tag: str, transcript: str, text: str, calls: tuple[ToolCall, ...]) -> None:
    assert read_everywhere_cut(lambda: TagParser(tag, NAMES), transcript) == Parsed(text, "", calls)


def test_a_prompt_that_ends_with_the_tag_opens_a_call() -> None:
    transcript = f"\n{WEATHER}\n</tool_call>"
    found = read_everywhere_cut(lambda: TagParser("<tool_call>", NAMES, opened=True), transcript)
    assert found == Parsed(tool_calls=(PARIS,))


@pytest.mark.spec(45)
def test_text_leaves_and_calls_are_made_as_soon_as_they_are_certain() -> None:
    parser = TagParser("<tool_call>", NAMES)
    assert parser.feed("Well <b").text == "Well <b"
    assert parser.feed(" <tool").text == " "
    assert parser.feed(f"_call>{WEATHER[:-1]}") == Parsed()
    assert parser.feed("}").tool_calls == (PARIS,)
    bare = TagParser("{", NAMES)
    assert bare.feed("No") == Parsed("No")
    assert bare.feed(" call {") == Parsed(" call {")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(arguments=st.dictionaries(st.text(), JSON, max_size=4), ascii_only=st.booleans(), data=st.data())
def test_any_arguments_come_through(arguments: dict[str, Any], ascii_only: bool, data: st.DataObject) -> None:
    written = "<tool_call>" + json.dumps({"name": "say", "arguments": arguments}, ensure_ascii=ascii_only)
    at = data.draw(st.integers(0, len(written)))
    found = read(TagParser("<tool_call>", NAMES), [written[:at], written[at:]])
    assert isinstance(found, Parsed)
    (made,) = found.tool_calls
    assert made == ToolCall("say", arguments)
