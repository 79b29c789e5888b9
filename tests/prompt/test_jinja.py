"""Chat templates render as transformers renders them, and hostile ones end within their limits."""

from __future__ import annotations

import functools
import json
import re
import threading
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.utils.chat_template_utils import render_jinja_template

from appliance.errors import InvalidTemplate
from appliance.prompt.jinja import JinjaTemplate
from appliance.prompt.limits import Limits
from appliance.prompt.sandbox import Sandbox

FOLDER = Path(__file__).parent / "templates"
FAMILIES = {path.stem: path.read_text(encoding="utf-8") for path in sorted(FOLDER.glob("*.jinja"))}
SMOLLM2, GEMMA, QWEN = FAMILIES["smollm2"], FAMILIES["gemma"], FAMILIES["qwen"]
USER, ASSISTANT = {"role": "user", "content": " What's <2> & 'two'? 😀 "}, {"role": "assistant", "content": "Four.\n"}
THOUGHT = {"role": "assistant", "content": "<think>\nhm\n</think>\n\nyes"}
CALL = {
    "role": "assistant",
    "content": "",
    "tool_calls": [{"type": "function", "function": {"name": "weather", "arguments": {"city": "Köln", "n": 1}}}],
}
RESULT = {"role": "tool", "content": '{"temp": 22}', "tool_name": "weather"}
TWO_CALLS = {
    "role": "assistant",
    "content": "",
    "thinking": "two things",
    "reasoning_content": "two things",
    "tool_calls": [
        {
            "id": "call_1",
            "type": "function",
            "function": {"name": "weather", "arguments": {"in": [1, None], "z": "<é>"}},
        },
        {"id": "call_2", "type": "function", "function": {"name": "now", "arguments": {}}},
    ],
}
RESULTS = [{"role": "tool", "content": "22", "tool_call_id": "call_1"}, {"role": "tool", "content": "12:00"}]
SYSTEM = {"role": "system", "content": "Be brief."}
CONVERSATIONS: dict[str, list[dict[str, Any]]] = {
    "one question": [USER],
    "several turns": [USER, ASSISTANT, USER],
    "with a system message": [SYSTEM, USER, ASSISTANT, USER],
    "with thoughts": [USER, THOUGHT, USER, THOUGHT],
    "with a tool call": [SYSTEM, USER, CALL, RESULT],
    "with two tool calls": [USER, TWO_CALLS, *RESULTS, ASSISTANT, USER],
    "with a thought apart": [USER, ASSISTANT | {"thinking": "hm", "reasoning_content": "hm"}, USER],
    "in parts": [{"role": "user", "content": [{"type": "text", "text": " a "}, {"type": "image"}]}, ASSISTANT],
}
TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The weather in a <city> & now",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "description": "Where", "enum": ["Köln", "<Rom>"]},
                    "days": {"type": ["integer", "null"], "default": 1},
                    "at": {"anyOf": [{"type": "number"}, {"type": "array", "items": {"type": "boolean"}}]},
                    "in": {"type": "object", "properties": {"unit": {"type": "string"}}, "required": ["unit"]},
                },
                "required": ["city"],
            },
        },
    },
    {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}},
]


def transformers_says(source: str, messages: list[dict[str, Any]], **values: Any) -> str | None:
    """What transformers renders; None when the template raises."""
    try:
        rendered, _ = render_jinja_template([messages], chat_template=source, **values)
    except Exception:
        return None
    return str(rendered[0])


VARIABLES: list[dict[str, Any]] = [
    {"add_generation_prompt": True},
    {"add_generation_prompt": True, "tools": TOOLS},
    {"add_generation_prompt": True, "enable_thinking": False},
    {"add_generation_prompt": False, "tools": TOOLS, "reasoning_effort": "high", "thinking": True},
]


@functools.cache
def compiled(family: str) -> JinjaTemplate:
    return JinjaTemplate(FAMILIES[family])


@pytest.mark.spec(35, 55)
@pytest.mark.parametrize("conversation", CONVERSATIONS)
@pytest.mark.parametrize("family", FAMILIES)
def test_it_renders_what_transformers_renders(family: str, conversation: str) -> None:
    messages = CONVERSATIONS[conversation]
    for variables in VARIABLES:
        values = {"bos_token": "<s>", "eos_token": "</s>", **variables}
        expected = transformers_says(FAMILIES[family], messages, **values)
        if expected is None:
            with pytest.raises(InvalidTemplate):
                compiled(family).render(messages, **values)
        else:
            assert compiled(family).render(messages, **values) == expected


def test_most_of_the_comparisons_compare_texts() -> None:
    said = [transformers_says(source, [SYSTEM, USER], tools=TOOLS, bos_token="") for source in FAMILIES.values()]
    assert said.count(None) <= 1  # gemma knows no system messages
    assert len(FAMILIES) >= 12


def test_smollm2_golden() -> None:
    assert JinjaTemplate(SMOLLM2).render([{"role": "user", "content": "Hi"}]) == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )


def test_the_templates_own_complaint_reaches_the_error() -> None:
    with pytest.raises(InvalidTemplate, match=r"^chat template: System role not supported$"):
        JinjaTemplate(GEMMA).render([SYSTEM, USER], bos_token="<bos>")


def test_strftime_now_asks_the_given_clock() -> None:
    sandbox = Sandbox(lambda: datetime(2026, 3, 4))
    assert JinjaTemplate("{{ strftime_now('%d %b %Y') }}", sandbox=sandbox).render([]) == "04 Mar 2026"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{{ foo", r"line 1: unexpected end of template"),
        ("\n{% if x %}", r"line 2: Unexpected end of template"),
        ("{{ x | nonsense }}", r"No filter named 'nonsense'"),
        ("{{ a.b.c }}", r"'a' is undefined"),
        ("{{ messages[0].content + 1 }}", r"TypeError"),
        ("{% include 'x' %}", r"no loader"),
        ("{{ undefined | tojson }}", r"Undefined is not JSON serializable"),
    ],
)
def test_mistakes_are_told(source: str, message: str) -> None:
    with pytest.raises(InvalidTemplate, match=message):
        JinjaTemplate(source).render([USER])


VALUES: dict[str, Any] = {
    "one": 1,
    "zero": 0,
    "half": 2.5,
    "minus": -3,
    "text": "abc",
    "odd": "é<&",
    "commas": "x,y",
    "empty": "",
    "yes": True,
    "nil": None,
    "pair": [1, "a"],
    "numbers": [3, 1, 2],
    "nested": [[1, 2], [3]],
    "hollow": [],
    "map": {"b": 2, "a": [1]},
    "nowhere": {},
    "tools": TOOLS,
}
ATOMS = """messages messages[0] messages[0].role messages[-1]['content'] nothing nothing.x tools[0].function range(3)
    messages|length namespace(a=1).a bos_token"""
OPERATORS = [
    "+",
    "-",
    "*",
    "/",
    "//",
    "%",
    "**",
    "~",
    "==",
    "!=",
    "<",
    ">=",
    "in",
    "and",
    "or",
    "not in",
    "if one else",
]
FILTERS = """list length string upper title trim first last sort reverse join join(',') tojson tojson(indent=2) int
    default('d') default('d',true) items dictsort map('string')|list select|list selectattr('role')|list unique|list
    batch(2)|list sum abs round capitalize replace('a','b') e escape urlencode wordcount max min groupby('role')|list
    map(attribute='role')|list rejectattr('x','defined')|list format(1) center(9) indent(2) attr('a') safe truncate(5)
    tojson(separators=(',',':'),sort_keys=true) float"""
METHODS = """.split(',') .strip() .upper() .startswith('a') .items() .get('a') .keys()|list .replace('a','b') [0] [-1]
    [1:] [::-1] .role .content .a ['a'] .format(1) .join(['x','y']) .splitlines() .count('a') .index('a') .nothing"""
TESTS = (
    """defined undefined none string number mapping sequence iterable true boolean even callable lower eq(1) in([1])"""
)
ATOM = st.sampled_from([*VALUES, *ATOMS.split()])
STEP = st.one_of(
    st.sampled_from(METHODS.split()),
    st.sampled_from([f"|{name}" for name in FILTERS.split()]),
    st.sampled_from([f" is {name}" for name in TESTS.split()]),
)
TERM = st.builds(lambda atom, steps: f"({atom})" + "".join(steps), ATOM, st.lists(STEP, max_size=2))
EXPRESSION = st.builds(
    lambda first, more: "".join([first, *(f" {operator} {term}" for operator, term in more)]),
    TERM,
    st.lists(st.tuples(st.sampled_from(OPERATORS), TERM), max_size=2),
)


ADDRESS = re.compile("0x[0-9a-f]{8}", re.IGNORECASE)
"""Printed iterators have one, never the same."""


@settings(deadline=None, max_examples=300)
@given(expression=EXPRESSION)
def test_any_expression_is_what_it_is_to_transformers(expression: str) -> None:
    source, values = f"{{{{ {expression} }}}}", {"bos_token": "<s>", **VALUES}
    expected = transformers_says(source, [SYSTEM, USER], **values)
    if expected is None:
        with pytest.raises(InvalidTemplate):
            JinjaTemplate(source).render([SYSTEM, USER], **values)
    else:
        rendered = JinjaTemplate(source).render([SYSTEM, USER], **values)
        assert rendered == expected or (ADDRESS.search(rendered) and ADDRESS.search(expected))


def test_long_conversations_are_no_attack() -> None:
    messages = [{"role": "user", "content": "x" * 100_000}, {"role": "assistant", "content": "y" * 100_000}] * 50
    rendered = JinjaTemplate(SMOLLM2, Limits(time_s=60)).render(messages)
    assert len(rendered) > 10_000_000


def test_one_template_renders_in_several_threads() -> None:
    template = JinjaTemplate(QWEN)
    results: list[str] = [""] * 8

    def render(i: int) -> None:
        results[i] = template.render([{"role": "user", "content": str(i)}])

    threads = [threading.Thread(target=render, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [f"<|im_start|>user\n{i}<|im_end|>\n<|im_start|>assistant\n" for i in range(8)]


PIECES = """{{ }} {% %} {%- -%} {# #} for in if else elif endif endfor set macro endmacro call filter endfilter block
    endblock messages loop . | ( ) [ ] { } , : = == ~ + - * ** / % ' " 0 1 99999999 'a' not and or is x ns recursive
    .role |list |join |tojson range( namespace( .format( .split( true none generation endgeneration raw break
    autoescape include extends import with"""


@settings(deadline=None, max_examples=200)
@given(source=st.one_of(st.text(max_size=60), st.lists(st.sampled_from(PIECES.split()), max_size=25).map(" ".join)))
def test_any_source_renders_or_is_an_invalid_template(source: str) -> None:
    try:
        rendered = JinjaTemplate(source, Limits(time_s=0.5)).render([USER, ASSISTANT], tools=TOOLS)
    except InvalidTemplate:
        return
    assert isinstance(rendered, str)


@settings(deadline=None)
@given(
    content=st.text(max_size=80), schema=st.recursive(st.none() | st.text(max_size=5) | st.integers(-9, 9), st.lists)
)
def test_contents_come_through_unescaped(content: str, schema: Any) -> None:
    template = JinjaTemplate("{{ messages[0].content }}|{{ tools | tojson }}")
    rendered = template.render([{"role": "user", "content": content}], tools=[{"schema": schema}])
    assert rendered == f"{content}|{json.dumps([{'schema': schema}], ensure_ascii=False)}"
