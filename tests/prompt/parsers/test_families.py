"""Golden transcripts of every family: what its models write, whole and cut everywhere, and text at random."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.families import PARSERS
from appliance.prompt.parsers.base import Parsed
from appliance.prompt.parsers.families import FAMILIES
from tests.prompt.parsers.transcripts import call, parser, read, said

OSLO, ROME = call("weather", city="Oslo"), call("weather", city="Rome", days=3)
EVERYTHING: dict[str, Any] = {
    "city": "07",
    "days": 3,
    "share": 0.5,
    "metric": True,
    "tags": ["a", "b"],
    "where": {"lat": 1},
    "note": None,
}
SEP, BEGIN, END = "<｜tool▁sep｜>", "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>"


JSON_CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
XML_CALL = "<tool_call>\n<function=weather>\n<parameter=city>\nOslo\n</parameter>\n</function>\n</tool_call>"
PAIR_CALL = "<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>Oslo</arg_value>\n</tool_call>"
DEEPSEEK_CALL = f'<｜tool▁calls▁begin｜>{BEGIN}weather{SEP}{{"city": "Oslo"}}{END}<｜tool▁calls▁end｜>'
COGITO_CALL = (
    f"<｜tool▁calls▁begin｜>{BEGIN}function{SEP}weather\n```json\n"
    + '{"city": "Oslo"}\n```'
    + f"{END}<｜tool▁calls▁end｜>"
)
COHERE_CALL = '<|START_ACTION|>[\n{"tool_call_id": "0", "tool_name": "weather", "parameters": {"city": "Oslo"}}\n]'
ATEM_CALL = (
    '<atem:function_calls>\n<atem:invoke name="weather">\n<atem:parameter name="city">Oslo</atem:parameter>\n'
    "</atem:invoke>\n</atem:function_calls>"
)
HARMONY_CALL = '<|channel|>commentary to=functions.weather <|constrain|>json<|message|>{"city": "Oslo"}<|call|>'

CALLS = {
    "qwen3": JSON_CALL,
    "qwen3-thinking": JSON_CALL,
    "qwen3-vl-instruct": JSON_CALL,
    "qwen3-vl-thinking": JSON_CALL,
    "qwen3-coder": XML_CALL,
    "qwen3.5": XML_CALL,
    "ornith": XML_CALL,
    "nemotron-3-nano": XML_CALL,
    "nemotron-3.5-nano": XML_CALL,
    "glm-4.7": PAIR_CALL,
    "glm-ocr": PAIR_CALL,
    "laguna": PAIR_CALL,
    "poolside-v1": PAIR_CALL,
    "deepseek3": DEEPSEEK_CALL,
    "cogito": COGITO_CALL,
    "ministral": '[TOOL_CALLS]weather[ARGS]{"city": "Oslo"}',
    "granite": '<|tool_call|>[{"name": "weather", "arguments": {"city": "Oslo"}}]',
    "olmo3": '<function_calls>weather(city="Oslo")</function_calls>',
    "olmo3-think": "<function_calls>weather(city='Oslo')</function_calls>",
    "lfm2": '<|tool_call_start|>[weather(city="Oslo")]<|tool_call_end|>',
    "lfm2-thinking": '<|tool_call_start|>[weather(city="Oslo")]<|tool_call_end|>',
    "functiongemma": "<start_function_call>call:weather{city:<escape>Oslo<escape>}<end_function_call>",
    "gemma4": '<|tool_call>call:weather{city:<|"|>Oslo<|"|>}<tool_call|>',
    "gemma4-no-thinking": '<|tool_call>call:weather{city:<|"|>Oslo<|"|>}<tool_call|>',
    "cohere": COHERE_CALL + "<|END_ACTION|>",
    "harmony": HARMONY_CALL,
    "glimmer": f" to=weather<|message|>{ATEM_CALL}<|eom|>",
}
MESSAGES = {"harmony", "glimmer"}
"""Families that write each call as a message of its own."""
THOUGHTS = {
    "<think>\n{}\n</think>\n\n{}": [
        "qwen3-thinking",
        "qwen3-vl-thinking",
        "qwen3.5",
        "ornith",
        "nemotron-3-nano",
        "nemotron-3.5-nano",
        "glm-4.7",
        "laguna",
        "poolside-v1",
        "deepseek3",
        "cogito",
        "olmo3-think",
        "lfm2-thinking",
        "granite",
    ],
    "[THINK]{}[/THINK]{}": ["ministral"],
    "<|channel>thought\n{}<channel|>{}": ["gemma4"],
    "<|START_THINKING|>{}<|END_THINKING|><|START_RESPONSE|>{}<|END_RESPONSE|>": ["cohere"],
    "<|channel|>analysis<|message|>{}<|end|><|start|>assistant<|channel|>final<|message|>{}<|return|>": ["harmony"],
    " to=self<|message|>{}<|eom|><|start|>assistant to=user<|message|>{}<|eot|>": ["glimmer"],
}
THINKING = [(family, frame) for frame, families in THOUGHTS.items() for family in families]


def test_every_name_has_a_parser() -> None:
    assert set(PARSERS) <= set(FAMILIES)
    assert set(CALLS) | {"passthrough"} == set(FAMILIES)
    thinking = {family for family, can in PARSERS.items() if "thinking" in can}
    assert {family for family, _ in THINKING} == thinking | {"ministral", "granite"}, "these two may think"


@pytest.mark.parametrize("family", sorted(CALLS))
def test_a_call(family: str) -> None:
    assert said(family, CALLS[family]) == Parsed(tool_calls=(OSLO,))


@pytest.mark.parametrize("family", sorted(set(CALLS) - MESSAGES))
def test_text_around_calls(family: str) -> None:
    transcript = f"Let me see.\n{CALLS[family]}\n{CALLS[family]}\n"
    assert said(family, transcript) == Parsed("Let me see.", tool_calls=(OSLO, OSLO))
    assert said(family, f"One {CALLS[family]} two") == Parsed("One  two", tool_calls=(OSLO,))


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_text_alone(family: str) -> None:
    text = " Compare 1 < 2, <b>tags</b>, [lists], {sets} and 🌍.\n"
    assert said(family, text) == Parsed(text)


@pytest.mark.parametrize(("family", "frame"), THINKING)
def test_thoughts(family: str, frame: str) -> None:
    output = frame.format("One <b>\n\ntwo", "The answer <i> ")
    whole = said(family, output)
    assert (whole.text.rstrip(), whole.thinking) == ("The answer <i>", "One <b>\n\ntwo")
    assert said(family, output, think=False).thinking == ""
    assert said(family, output, think=False).text == whole.text


@pytest.mark.parametrize(("family", "frame"), THINKING)
def test_thoughts_an_answer_and_a_call(family: str, frame: str) -> None:
    """All that a family writes, in one answer."""
    start = "<|start|>assistant"
    parts = {
        "harmony": f"{start}<|channel|>commentary<|message|>Let me see.<|end|>{start}{HARMONY_CALL}",
        "glimmer": f"{start} to=user<|message|>Let me see.<|eom|>{start}{CALLS['glimmer']}",
    }
    begun, rest = frame.format("Hm.\n\nWeather.", "\0").split("\0")
    if family in MESSAGES:
        begun = begun[: begun.index("<|start|>")]
    transcript = begun + parts.get(family, f"Let me see.\n{rest}{CALLS[family]}")
    wanted = Parsed("Let me see.", "Hm.\n\nWeather.", (OSLO,))
    prompt = start if family in MESSAGES else ""
    assert said(family, transcript, prompt=prompt) == wanted
    assert said(family, transcript, think=False, prompt=prompt) == Parsed(wanted.text, tool_calls=(OSLO,))


@pytest.mark.parametrize(("family", "frame"), THINKING)
def test_thoughts_that_the_prompt_begins(family: str, frame: str) -> None:
    begun, rest = frame.format("\0", "42").split("\0")
    prompt = "<|start|>assistant" + begun if family in MESSAGES else "Hello" + begun
    assert said(family, "Hm." + rest, prompt=prompt) == Parsed("42", "Hm.")


@pytest.mark.parametrize(("family", "frame"), THINKING)
def test_what_precedes_the_answer(family: str, frame: str) -> None:
    """A second run, held to a format, continues where the answer of the first began, or closes its thoughts."""
    prompt = "<|start|>assistant" if family in MESSAGES else ""
    output = frame.format("Hm.", "The answer")
    before = output[: output.index("The answer")]
    first = parser(family, prompt=prompt)
    assert "The" in read(first, [before + "The answer is"]).text  # type: ignore[union-attr]
    assert first.opening(before + "The answer is") == before
    unfinished = parser(family, prompt=prompt)
    unfinished.feed(before[: before.index("Hm.") + 3])
    again = read(parser(family, prompt=prompt), [unfinished.opening(before[: before.index("Hm.") + 3]) + "{}"])
    assert again == Parsed("{}", "Hm.")
    silent = parser(family, prompt=prompt)
    assert read(parser(family, prompt=prompt), [silent.opening("") + "{}"]) == Parsed("{}")


@pytest.mark.parametrize("family", ["qwen3-thinking", "qwen3.5", "glm-4.7", "deepseek3", "lfm2-thinking"])
def test_prompt_and_model_both_open_or_close_thoughts(family: str) -> None:
    assert said(family, "<think>\nHm.</think>\n42", prompt="<think>\n") == Parsed("42", "Hm.")
    assert said(family, "\n</think>\n\n42", prompt="<think>\n") == Parsed("42")
    assert said(family, "</think>42", prompt="<think>\n\n</think>") == Parsed("42")
    assert said(family, "It is <think>a tag</think>.") == Parsed("It is <think>a tag</think>.")
    assert said(family, "<think>Hm. Never <closed></thin", prompt="") == Parsed(thinking="Hm. Never <closed></thin")


@pytest.mark.parametrize("family", ["qwen3.5", "nemotron-3-nano", "glm-4.7", "laguna"])
def test_a_call_ends_thoughts(family: str) -> None:
    assert said(family, f"<think>I call.\n{CALLS[family]}") == Parsed(thinking="I call.", tool_calls=(OSLO,))


@pytest.mark.parametrize("family", ["gemma4", "ministral", "cohere"])
def test_thoughts_between_pieces_of_the_answer(family: str) -> None:
    tags = {
        "gemma4": ("<|channel>", "<channel|>"),
        "ministral": ("[THINK]", "[/THINK]"),
        "cohere": ("<|START_THINKING|>", "<|END_THINKING|>"),
    }
    opening, closing = tags[family]
    transcript = f"{opening}a{closing}One{opening}b{closing}two"
    assert said(family, transcript) == Parsed("Onetwo", "ab")


@pytest.mark.parametrize("family", sorted(set(CALLS) - MESSAGES))
def test_without_tools_nothing_is_a_call(family: str) -> None:
    whole = said(family, f"So: {CALLS[family]}", tools=())
    assert not whole.tool_calls
    assert whole.text.startswith("So: " + CALLS[family][:5])


def test_declared_types() -> None:
    values = {"city": "07", "days": "3", "share": "0.5", "metric": "True", "tags": '["a", "b"]', "where": '{"lat": 1}'}
    values["note"] = "null"
    functions = "".join(f"<parameter={name}>\n{value}\n</parameter>\n" for name, value in values.items())
    pairs = "".join(f"<arg_key>{k}</arg_key>\n<arg_value>{v}</arg_value>\n" for k, v in values.items())
    parameters = "".join(f'<atem:parameter name="{k}">{v}</atem:parameter>\n' for k, v in values.items())
    wanted = Parsed(tool_calls=(call("weather", **EVERYTHING),))
    assert said("qwen3-coder", f"<tool_call><function=weather>{functions}</function></tool_call>") == wanted
    assert said("glm-4.7", f"<tool_call>weather\n{pairs}</tool_call>") == wanted
    atem = f'<atem:invoke name="weather">\n{parameters}</atem:invoke>'
    assert said("glimmer", f" to=weather<|message|><atem:function_calls>{atem}</atem:function_calls><|eot|>") == wanted


def test_values_of_another_type_than_declared_stay_text() -> None:
    body = "<parameter=days>soon</parameter><parameter=tags>a, b</parameter><parameter=other>5</parameter>"
    found = said("qwen3-coder", f"<tool_call><function=weather>{body}</function></tool_call>")
    assert found.tool_calls == (call("weather", days="soon", tags="a, b", other="5"),)


def test_parameters_keep_their_lines_and_may_lack_their_end() -> None:
    body = "<parameter=city>\nif a < b:\n    print('</b>')\n\n</parameter><parameter=days>\n3\n"
    found = said("qwen3-coder", f"<tool_call>\n<function=weather>\n{body}</function>\n</tool_call>")
    assert found.tool_calls == (call("weather", city="if a < b:\n    print('</b>')\n", days=3),)


@pytest.mark.parametrize("family", ["qwen3-coder", "qwen3.5"])
def test_functions_without_the_marker_before_them(family: str) -> None:
    function = "<function=weather>\n<parameter=city>\nOslo\n</parameter>\n</function>"
    found = Parsed("I look.", tool_calls=(OSLO, OSLO))
    assert said(family, f"I look.\n{function}\n</tool_call>\n{function}") == found
    assert said(family, f"I look.<tool_call>{function}\n{function}</tool_call>") == found
    broken = function.partition("lo\n")[0]
    assert said(family, "I look. " + broken) == Parsed("I look. " + broken)
    assert said(family, function, tools=()) == Parsed(function)


def test_several_calls_in_one_block() -> None:
    two = f'{BEGIN}weather{SEP}{{"city": "Oslo"}}{END}\n{BEGIN}weather{SEP}{{"city": "Rome", "days": 3}}{END}'
    both = Parsed(tool_calls=(OSLO, ROME))
    assert said("deepseek3", f"<｜tool▁calls▁begin｜>{two}<｜tool▁calls▁end｜>") == both
    lines = 'weather(city="Oslo")\nweather(city="Rome", days=3)'
    assert said("olmo3", f"<function_calls>{lines}</function_calls>") == both
    listed = "[weather(city='Oslo'), weather(city='Rome', days=3)]"
    assert said("lfm2", f"<|tool_call_start|>{listed}<|tool_call_end|>") == both
    objects = json.dumps([{"name": made.name, "arguments": dict(made.arguments)} for made in (OSLO, ROME)])
    assert said("ministral", f"[TOOL_CALLS] {objects}") == both
    assert said("granite", f"<|tool_call|>{objects}<|/tool_call|>") == both
    named = (
        '[TOOL_CALLS]weather[CALL_ID]abc123[ARGS]{"city": "Oslo"}[TOOL_CALLS]weather[ARGS]{"city": "Rome", "days": 3}'
    )
    assert said("ministral", named) == both


def test_values_as_in_source_code() -> None:
    arguments = (
        """from="say \\"hi\\"", to='it\\'s', n=-3, x=1.5e3, ok=True, no=false, none=None, word=plain, """
        """items=["a", 'b', [1]], map={"k": {"z": null}}, uni="\\u00e9\\n" """
    )
    found = said("olmo3", f"<function_calls>weather({arguments})</function_calls>")
    wanted = {
        "from": 'say "hi"',
        "to": "it's",
        "n": -3,
        "x": 1500.0,
        "ok": True,
        "no": False,
        "none": None,
        "word": "plain",
        "items": ["a", "b", [1]],
        "map": {"k": {"z": None}},
        "uni": "é\n",
    }
    assert found.tool_calls == (call("weather", **wanted),)
    gemma = r'<|tool_call>call:weather{a:<|"|>say "hi" C:\new<|"|>,b:[<|"|>x<|"|>,2],c:{d:true,e:null}}<tool_call|>'
    assert said("gemma4", gemma).tool_calls == (
        call("weather", a=r'say "hi" C:\new', b=["x", 2], c={"d": True, "e": None}),
    )


def test_markers_inside_of_strings_close_nothing() -> None:
    body = '{"name": "weather", "arguments": {"city": "a </tool_call> \\" b"}}'
    assert said("qwen3", f"<tool_call>{body}</tool_call>").tool_calls == (call("weather", city='a </tool_call> " b'),)
    text = '[TOOL_CALLS]weather[ARGS]{"city": "}] \\" {"}'
    assert said("ministral", text).tool_calls == (call("weather", city='}] " {'),)
    quoted = '<|tool_call>call:weather{city:<|"|>a<tool_call|>b<|"|>}<tool_call|>'
    assert said("gemma4", quoted).tool_calls == (call("weather", city="a<tool_call|>b"),)


@pytest.mark.parametrize("family", sorted(set(CALLS) - MESSAGES))
def test_calls_that_break_off(family: str) -> None:
    """At the end of the output a call without its end is read if it is whole, else nothing of it is lost."""
    whole = CALLS[family]
    length = whole.index("Oslo") + 2
    broken = said(family, "So: " + whole[:length])
    assert broken == Parsed("So: " + whole[:length])


@pytest.mark.parametrize("family", ["qwen3", "qwen3-coder", "glm-4.7", "deepseek3", "cogito", "lfm2", "gemma4"])
def test_calls_that_only_lack_their_marker(family: str) -> None:
    whole = CALLS[family]
    marker = whole.rstrip().rindex("<")
    assert said(family, whole[:marker]) == Parsed(tool_calls=(OSLO,))
    assert said(family, whole[: marker + 3]) == Parsed(tool_calls=(OSLO,))


MALFORMED = {
    "qwen3": "<tool_call>{weather}</tool_call>",
    "qwen3-coder": "<tool_call>weather(Oslo)</tool_call>",
    "glm-4.7": "<tool_call>weather<arg_key>city</tool_call>",
    "deepseek3": f"<｜tool▁calls▁begin｜>{BEGIN}weather{END}<｜tool▁calls▁end｜>",
    "ministral": "[TOOL_CALLS]weather[ARGS]{Oslo}",
    "granite": "<|tool_call|>[weather]",
    "olmo3": "<function_calls>not a call</function_calls>",
    "lfm2": "<|tool_call_start|>[weather(city=)]<|tool_call_end|>",
    "functiongemma": "<start_function_call>weather{}<end_function_call>",
    "cohere": "<|START_ACTION|>[!]<|END_ACTION|>",
    "harmony": "<|channel|>commentary to=functions.weather<|message|>{Oslo}<|call|>",
    "glimmer": " to=weather<|message|><atem:function_calls>{}</atem:function_calls><|eot|>",
    "gemma4": "<|tool_call>call:weather{city}<tool_call|>",
}


@pytest.mark.parametrize("family", sorted(CALLS))
def test_malformed_calls_are_errors(family: str) -> None:
    broken = next(text for each, text in MALFORMED.items() if CALLS[each][:18] == CALLS[family][:18])
    found = said(family, broken + " and more")
    assert isinstance(found, str)
    assert "the model wrote a tool call that cannot be read" in found


def test_limits_of_values() -> None:
    nested = "[" * 100_000
    for transcript in (
        f'<tool_call>{{"name": "f", "arguments": {{"a": {nested}</tool_call>',
        f"<tool_call>{nested}</tool_call>",
    ):
        assert isinstance(read(parser("qwen3"), [transcript]), str)
    assert isinstance(read(parser("olmo3"), [f"<function_calls>f(a={nested})</function_calls>"]), str)
    lone = read(parser("qwen3"), ['<tool_call>{"name": "f", "arguments": {"a": "\\ud800"}}</tool_call>'])
    assert lone == Parsed(tool_calls=(call("f", a="\ufffd"),))
    assert isinstance(read(parser("qwen3"), ['<tool_call>{"name": "f", "arguments": {"a": NaN}}</tool_call>']), str)


MARKS = sorted({mark for family in FAMILIES for mark in parser(family).markup if mark})
PIECES = st.one_of(
    st.sampled_from([*MARKS, *CALLS.values(), " ", "\n", "{", "}", "[", '"', "<", "to=", "assistant"]),
    st.text(max_size=8),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(PIECES, max_size=12), st.sampled_from(["", "<think>\n", "<|start|>assistant", "[THINK]"]), st.data())
def test_whatever_the_model_writes(pieces: list[str], prompt: str, data: st.DataObject) -> None:
    """Where it is cut makes no difference, and there is no error but OutputError."""
    text = "".join(pieces)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    cut = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    for family in FAMILIES:
        whole, found = read(parser(family, prompt=prompt), [text]), read(parser(family, prompt=prompt), cut)
        assert isinstance(whole, str) == isinstance(found, str), family
        if isinstance(whole, Parsed):
            assert whole == found, family


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(exclude_characters="<[｜")))
def test_plain_text_is_never_lost(text: str) -> None:
    for family in FAMILIES:
        if re.match(r"\s*t(o=?)?\s*$", text) or re.match(r"\s*to=", text):
            continue  # the header of a message that never came
        assert read(parser(family), [text]) == Parsed(text), family
