"""Go templates: what test_golang.py cannot ask Go, what a template mentions, where it is cut, and hostile ones."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.errors import InvalidTemplate
from appliance.prompt.gotemplate import GoTemplate
from appliance.prompt.gotemplate.values import Alternatives, JSONMap, Struct, show, to_json
from appliance.prompt.limits import Limits

DATA: dict[str, Any] = {
    "Text": "hi",
    "List": [1, 2, 3],
    "Map": {"b": 1, "a": "x"},
    "Nil": None,
    "Float": 1.5,
    "Empty": "",
    "Zero": 0,
    "Struct": Struct("api.Thing", {"Name": "n", "Size": 3}),
    "Structs": [Struct("api.Thing", {"Name": "n", "Size": 3})],
    "Nested": {"List": [{"Name": "p"}, {"Name": "q"}]},
    "Response": "",
}


def render(source: str, **limits: Any) -> str:
    template = GoTemplate(source, Limits(**limits), now=lambda: datetime(2026, 3, 1, 12))
    return template.execute(DATA)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ .Struct.Name }}{{ .Struct }}{{ range .Structs }}{{ .Name }}{{ end }}", "n{n 3}n"),
        ("{{ if .Struct }}a{{ end }}{{ with .Struct }}{{ .Size }}{{ end }}", "a3"),
        ('{{ printf "%+v %v" .Struct .Struct }}', "{Name:n Size:3} {n 3}"),
        # of later versions than the recorded one
        ("{{ with .Empty }}{{ . }}{{ else with .Map }}{{ .a }}{{ end }}", "x"),
        ("{{ range 3 }}{{ . }}{{ end }}{{ range $i := 2 }}{{ $i }}{{ end }}", "01201"),
        ("{{ range 0 }}{{ . }}{{ else }}none{{ end }}", "none"),
        ("{{ range $x := .List }}{{ end }}{{ $y := 9 }}{{ range $y = .List }}{{ $z := 1 }}{{ end }}{{ $y }}", "3"),
        ("{{ json `\b\f` }}", '"\\b\\f"'),
    ],
)
def test_it_prints_what_go_prints(source: str, expected: str) -> None:
    assert render(source) == expected


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{{ template `a` }}", "undefined template specified"),
        ("{{ .A) }}", "template: :1: unexpected right paren"),
        ("{{ 2i }}", 'template: :1: complex numbers are not supported: "2i"'),
        ("{{ 1+2i }}", 'template: :1: complex numbers are not supported: "1+2i"'),
        (
            "{{ .Struct.X }}",
            'template: :1:10: executing "" at <.Struct.X>: can\'t evaluate field X in type api.Thing',
        ),
        (
            "{{ .Struct.Name 1 }}",
            'template: :1:10: executing "" at <.Struct.Name>: Name has arguments but cannot be invoked as function',
        ),
        (
            "{{ toTypeScriptType 3 }}",
            'template: :1:20: executing "" at <3>: can\'t handle 3 for arg of type api.ToolProperty',
        ),
        (
            "{{ toTypeScriptType .Text }}",
            'template: :1:20: executing "" at <.Text>: wrong type for value; expected api.ToolProperty; got string',
        ),
        (
            "{{ range $i, $x := 3 }}{{ end }}",
            'template: :1:19: executing "" at <3>: can\'t use 3 to iterate over more than one variable',
        ),
        (
            '{{ printf "%b" 1.5 }}',
            'template: :1:3: executing "" at <printf "%b" 1.5>: error calling printf: %b of a float is not supported',
        ),
    ],
)
def test_it_complains(source: str, message: str) -> None:
    with pytest.raises(InvalidTemplate) as error:
        render(source)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("source", "fields"),
    [
        ("{{ .Prompt }}", {"prompt", "response"}),
        ("{{ .System }} {{ .Prompt }} {{ .Response }}", {"prompt", "response", "system"}),
        ("{{ with .Tools }}{{ . }}{{ end }}", {"tools", "response"}),
        ("{{ range .Messages }}{{ .Role }} {{ .Content }}{{ end }}", {"content", "messages", "role"}),
        ("{{ range $i, $m := $.Messages }}{{ $m.Role }}{{ else }}{{ .X }}{{ end }}", {"messages", "role", "x"}),
        ("{{ if (index .Messages 0).Content | len | eq (len .A.B) }}{{ end }}", {"messages", "content", "a", "b"}),
        ('{{ define "t" }}{{ .Suffix }}{{ end }}{{ template "t" .Data }}', {"suffix", "data", "response"}),
    ],
)
def test_it_knows_the_fields_that_a_template_mentions(source: str, fields: set[str]) -> None:
    assert GoTemplate(source).variables == fields


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("a{{ .Text }}b{{ .Response }}c{{ .Text }}d", "ahib"),
        ("{{ if .Text }}x{{ .Response }}y{{ end }}z", "x"),
        ("{{ if .Response }}x{{ end }}y{{ .Response }}z", "y"),
        ("{{ with .Empty }}x{{ else }}e{{ .Response }}f{{ end }}z", "e"),
        ("a{{ .Text }}", "ahi"),  # .Response is appended
    ],
)
def test_it_stops_where_it_is_told_to(source: str, expected: str) -> None:
    assert GoTemplate(source).execute(DATA, until="Response") == expected


def test_values_with_json_of_their_own() -> None:
    prop = Struct("p", {"Type": Alternatives(["string"])}, json={"type": Alternatives(["string"]), "enum": ["<", 2.0]})
    assert show(JSONMap({"z": prop, "a": None})) == '{"a":null,"z":{"type":"string","enum":["\\u003c",2]}}'
    assert show(JSONMap({"z": 1, "a": 2}, ordered=True)) == '{"z":1,"a":2}'
    assert show(Alternatives(["a", "b"])) == "[a b]"
    assert show(Alternatives(["a"])) == "a"
    assert to_json([1e21, 1e-7, 0.1, b"\x00", "\u2028\x01"]) == '[1e+21,1e-7,0.1,"AA==","\\u2028\\u0001"]'


SIZE, TIME, DEPTH = "size limit of", "time limit of", "nested"
HOSTILE = [
    ("{{ range 9223372036854775807 }}{{ end }}", TIME),
    ("{{ range 100000 }}{{ range 100000 }}{{ end }}{{ end }}", TIME),
    ('{{ $s := printf "%1000000d" 1 }}{{ range 100000 }}{{ $q := printf "%q" $s }}{{ end }}', TIME),
    ('{{ define "a" }}{{ template "a" . }}{{ end }}{{ template "a" . }}', DEPTH),
    ("{{ " + "(" * 20000 + " }}", DEPTH),
    ("{{ if 1 }}" * 5000, DEPTH),
    ("{{ if 1 }}" + "{{ else if 1 }}" * 3000 + "{{ end }}", DEPTH),
    ('{{ $s := "aa" }}{{ range 100 }}{{ $s = print $s $s }}{{ end }}', SIZE),
    ('{{ $s := "aa" }}{{ range 100 }}{{ $s = printf "%s%s" $s $s }}{{ end }}', SIZE),
    ('{{ printf "%999999d%999999d" 1 2 }}', SIZE),
    ('{{ printf "%.999999f%999999v" 1.0 1 }}', SIZE),
    ('{{ printf "%*d%[1]*d" 999999 1 }}', SIZE),
    ('{{ printf "%999999v" .List }}', SIZE),
    ('{{ printf "%999999v" .Structs }}', SIZE),
    ('{{ $s := printf "%1000000d" 1 }}{{ print' + " $s" * 20000 + " }}", SIZE),
    ('{{ $s := printf "%1000000d" 1 }}{{ printf "' + "%[1]s" * 1000 + '" $s }}', SIZE),
    ("{{ range 1000000 }}xxxxxxxxxxxxxxxxxxxx{{ end }}", SIZE),
    ("a" * 70_000, "limit of 65,536 characters"),
]


@pytest.mark.parametrize(("source", "limit"), HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_templates_end_at_a_limit(source: str, limit: str) -> None:
    with pytest.raises(InvalidTemplate, match=limit):
        render(source, time_s=0.2 if limit is TIME else 60)


GROWTH = """$s = print $s $s; $s = printf "%s%v" $s $s; $s = json $s; $s = html (print $s "<"); $s = js (print $s "<");
    $s = urlquery (print $s " "); $s = printf "%q" $s; $s = printf "%x" $s; $s = printf "%999999s" $s;
    $s = printf "%[1]*[2]d" 999999 1 | print $s"""


@settings(deadline=None, max_examples=25)
@given(steps=st.lists(st.sampled_from([step.strip() for step in GROWTH.split(";")]), min_size=1, max_size=4))
def test_growth_without_end_is_stopped(steps: list[str]) -> None:
    turn = "".join(f"{{{{ {step} }}}}" for step in steps)
    with pytest.raises(InvalidTemplate, match=r"template exceeds its (size|time|effort) limit of"):
        render('{{ $s := "<" }}{{ range 1000000 }}' + turn + "{{ $s }}{{ end }}", time_s=0.2)


PIECES = """{{ }} {{- -}} {{/* */}} if else end range with define template block break continue . .Text .List .Map
    $ $x $i := = | ( ) , "a" `b` 'c' 1 2.5 true nil eq and or not len index slice print printf "%s" html json 100000"""
ACTIONS = """.Text; .List; .Nil; index .List 1; len .Text; printf `%5v|%q|%d` . .Text 3; slice .List 1 2;
    range .List }}{{ . }}{{ end; if .Nil }}a{{ else }}b{{ end; $x := .Map }}{{ $x.a; json .; html .Text; js .Map;
    eq .Text .List; lt 1 .Float; and .Nil .Text; with .Map }}{{ .a }}{{ end; urlquery .List"""


@settings(deadline=None, max_examples=300)
@given(source=st.one_of(st.text(max_size=60), st.lists(st.sampled_from(PIECES.split()), max_size=25).map(" ".join)))
def test_any_source_renders_or_is_an_invalid_template(source: str) -> None:
    try:
        rendered = render(source, time_s=0.5)
    except InvalidTemplate:
        return
    assert isinstance(rendered, str)


@settings(deadline=None, max_examples=300)
@given(actions=st.lists(st.sampled_from(ACTIONS.split(";")), max_size=8))
def test_well_formed_sources_render_or_fail_while_executing(actions: list[str]) -> None:
    template = GoTemplate(" ".join(f"{{{{ {action} }}}}" for action in actions))
    try:
        assert isinstance(template.execute(DATA), str)
    except InvalidTemplate:
        assert any(action.split()[0] in ("eq", "lt") for action in actions)


@given(text=st.text(st.characters(exclude_characters="{", exclude_categories=["Cs"]), max_size=60))
def test_text_without_braces_is_its_own_rendering(text: str) -> None:
    assert render(text) == text


def test_urlquery_of_half_a_character() -> None:
    assert GoTemplate("{{ urlquery .Prompt }}").execute({"Prompt": "a\ud800", "Response": ""}) == "a%EF%BF%BD"
