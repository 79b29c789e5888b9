"""Templates that mean harm: they stay in their sandbox, and end at a limit."""

from __future__ import annotations

import contextlib
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.errors import InvalidTemplate
from appliance.prompt.jinja import JinjaTemplate
from appliance.prompt.limits import Limits

USER = {"role": "user", "content": " What's <2> & 'two'? 😀 "}

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
