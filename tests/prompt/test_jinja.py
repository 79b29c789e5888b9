"""Chat templates render as transformers renders them, and hostile ones end within their limits."""

from __future__ import annotations

import contextlib
import functools
import json
import re
import threading
import tracemalloc
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


ESCAPES = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ (''|attr('__class__')).mro() }}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "{{ raise_exception.__globals__['json'] }}",
    "{{ self._TemplateReference__context.environment.filters }}",
    "{{ '{0.__class__.__mro__}'.format('').x }}{{ '{0.__class__.x}'.format('') }}",
    "{{ '{x.__class__.x}'.format_map({'x': 1}) }}",
    "{{ messages | map(attribute='__class__.__mro__') | list }}{{ messages.__class__.x }}",
    "{{ messages.append(1) }}",
    "{{ messages[0].update(role='system') }}",
    "{{ 'x'.encode('utf-8') }}",
    "{{ (1).to_bytes(1000000000, 'big') }}",
    "{{ '\\t'.expandtabs(1000000000) }}",
    "{{ ''.maketrans('a', 'b') }}",
    "{% import 'os' as os %}",
]


@pytest.mark.parametrize("source", ESCAPES)
def test_templates_stay_in_their_sandbox(source: str) -> None:
    messages = [dict(USER)]
    with pytest.raises(InvalidTemplate):
        JinjaTemplate(source).render(messages)
    assert messages == [USER]


def repeated(step: str, start: str = "a", then: str = "{{ ns.s }}", times: int = 60) -> str:
    turn = f"{{% for i in range({times}) %}}{{% set ns.s = {step} %}}{{% endfor %}}"
    return f"{{% set ns = namespace(s={start}) %}}{turn}{then}"


SIZE, EFFORT, TIME = r"size limit of", r"effort limit of", r"time limit of"
ELEMENTS, DEPTH, BITS = r"limit of [\d,]+ elements", r"limit of \d+ nested calls", r"limit of 64 bits"
HOSTILE = [
    ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", TIME),
    ("{% for a in range(99999) if range(99999) | list | length < 0 %}{% endfor %}", TIME),
    ("{{ range(99999) | select('in', range(99999, 0, -1) | list) | list | length }}", TIME),
    ("{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(50) }}", TIME),
    ("{{ ([[1] * 1000] * 200) | sum(start=[]) | length }}", TIME),
    (repeated("ns.s ~ ns.s", "'a'"), SIZE),
    (repeated("ns.s + ns.s", "'a'"), SIZE),
    (repeated("'%s%s' % (ns.s, ns.s)", "'a'"), SIZE),
    (repeated("'{0}{0}'.format(ns.s)", "'a'"), SIZE),
    (repeated("[ns.s, ns.s] | join", "'a'"), SIZE),
    (repeated("ns.s.replace('a', 'aa')", "'a'"), SIZE),
    (repeated("ns.s.join([ns.s, ns.s, ns.s])", "'ab'"), SIZE),
    (repeated("[ns.s, ns.s]", "[1]"), ELEMENTS),
    (repeated("(ns.s, ns.s)", "(1,)", "{{ ns.s == ns.s[1:] }}"), ELEMENTS),
    (repeated("{'a': ns.s, 'b': ns.s}", "{}", "{{ ns.s | tojson }}"), ELEMENTS),
    (repeated("dict(a=ns.s, b=ns.s)", "{}"), ELEMENTS),
    (repeated("ns.s + ns.s", "[1]"), ELEMENTS),
    (repeated("[ns.s, ns.s] | map('list') | list", "[1]"), ELEMENTS),
    ("{% macro m(n) %}{% if n %}{{ m(n - 1, varargs, varargs) }}{% endif %}{% endmacro %}{{ m(50, 1, 2) }}", ELEMENTS),
    (repeated("ns.s * ns.s", "3"), BITS),
    ("{{ 10 ** 10 ** 10 }}", BITS),
    ("{{ range(0, 99999 * (2 ** 61 - 1), 2 ** 61 - 1) | unique | list }}", BITS),
    ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", DEPTH),
    ("{% for x in [[1]] recursive %}{{ loop([[1]]) }}{% endfor %}", DEPTH),
    ("{{ 'a'.center(10 ** 10) }}", SIZE),
    ("{{ 'a'.zfill(10 ** 10) }}", SIZE),
    ("{{ 'a' | center(1000000000) }}", SIZE),
    ("{{ 'a' | indent(1000000000, first=true) }}", SIZE),
    ("{{ ('\\n' * 1000000) | indent(1000) }}", SIZE),
    ("{{ '%1000000000d' % 1 }}", SIZE),
    ("{{ '%.1000000000f' | format(1) }}", SIZE),
    ("{{ '%*d' % (1000000000, 1) }}", "computed width"),
    ("{{ '{:1000000000}'.format(1) }}", SIZE),
    ("{{ '{:{w}}'.format(1, w=1000000000) }}", SIZE),
    ("{{ 'a' * 10 ** 10 }}", SIZE),
    ("{{ 10 ** 10 * [0] }}", SIZE),
    ("{% set a = 'a' * 1000000 %}{{ a.replace('', a) }}", SIZE),
    ("{% set a = 'a' * 1000000 %}{{ a | replace('a', a) }}", SIZE),
    ("{% set a = 'a' * 1000000 %}{{ a | join(a) }}", SIZE),
    ("{{ ('%(a)s' * 10000) % {'a': 'a' * 1000000} }}", SIZE),
    ("{{ ('{0}' * 100000).format('a' * 1000000) }}", EFFORT),
    ("{{ [1] | batch(1000000000, 'x') | list }}", SIZE),
    ("{{ [1] | batch(linecount=1000000000, fill_with='x') | list }}", SIZE),
    ("{{ [1] | slice(1000000000) | list }}", SIZE),
    ("{% for row in [1] | batch(99999, 'a' * 1000000) %}{{ row }}{% endfor %}", SIZE),
    ("{{ range(99999) | map('string') | map('center', 99999) | list }}", EFFORT),
    ("{{ ('a' * 1000000).rfind('ab' + 'a' * 500000) }}", EFFORT),
    ("{{ ('b' * 1000000) | trim('a' * 500000 + 'b') }}", EFFORT),
    ("{% set x %}{% for i in range(99999) %}" + "y" * 9999 + "{% endfor %}{% endset %}", EFFORT),
    ("{% for i in range(99999) %}" + "y" * 9999 + "{% endfor %}", SIZE),
    ("{{ strftime_now('%c' * 1000000) }}", SIZE),
    ("{{ 1.5 | round(1000000000) }}", "308 decimals"),
    ("{{ [1] | tojson(indent=100000000) }}", "64 characters"),
    ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "nested too deeply"),
    ("{{ " + "+".join(["1"] * 20000) + " }}", "nested too deeply"),
    ("{% if 1 %}" * 3000 + "{% endif %}" * 3000, "nested too deeply"),
    (repeated("ns.s | map('int')", "[1]", "{{ ns.s | list }}", times=5000), "nested too deeply"),
    ("a" * 100_000, r"limit of 65,536 characters"),
]


@pytest.mark.parametrize(("source", "limit"), HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_templates_end_at_a_limit(source: str, limit: str) -> None:
    with pytest.raises(InvalidTemplate, match=limit):
        JinjaTemplate(source, Limits(time_s=0.2 if limit is TIME else 60)).render([USER])


GROWTH = """ns.s ~ ns.s; ns.s + ns.s; ns.s * 3; '%s%s' % (ns.s, ns.s); '{0}{0}'.format(ns.s); [ns.s, ns.s]; [ns.s] * 9;
    ns.s | string | replace('a', 'aaa'); (ns.s | string).replace('a', 'bab'); ns.s | tojson; [ns.s, ns.s] | join('-');
    {'a': ns.s, 'b': ns.s}; (ns.s, ns.s); ns.s | string | indent(99); ns.s | list | map('string') | list;
    (ns.s | string).center(99999); ns.s | string | center(99999)"""


@settings(deadline=None, max_examples=40)
@given(steps=st.lists(st.sampled_from([step.strip() for step in GROWTH.split(";")]), min_size=1, max_size=4))
def test_growth_without_end_is_stopped(steps: list[str]) -> None:
    turn = "".join(f"{{% set ns.s = {step} %}}" for step in steps)
    source = "{% set ns = namespace(s='a') %}{% for i in range(99999) %}" + turn + "{{ ns.s }}{% endfor %}"
    with contextlib.suppress(TypeError), pytest.raises(InvalidTemplate) as error:
        JinjaTemplate(source, Limits(time_s=0.2)).render([])
    assert "limit of" in str(error.value) or "TypeError" in str(error.value)


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


@pytest.mark.parametrize("step", ["s | list", "s.split('b')", "s | title"])
def test_hostile_templates_stay_small(step: str) -> None:
    """Lists and words of a text are made before they are counted, so a text must not be long to begin with."""
    template = JinjaTemplate(f"{{% set s = '一b' * {Limits().output_chars // 2 - 100} %}}{{{{ ({step}) | length }}}}")
    tracemalloc.start()
    try:
        with contextlib.suppress(InvalidTemplate):
            template.render([])
        assert tracemalloc.get_traced_memory()[1] < 128 * 2**20
    finally:
        tracemalloc.stop()
