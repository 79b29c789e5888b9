"""Go templates: what Go's text/template prints and says, by its documentation and source, and hostile ones."""

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
    "Nested": {"List": [{"Name": "p"}, {"Name": "q"}]},
    "Response": "",
}


def render(source: str, **limits: Any) -> str:
    template = GoTemplate(source, Limits(**limits), now=lambda: datetime(2026, 3, 1, 12))
    return template.execute(DATA)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("plain", "plain"),
        ("a  {{- 1 -}}  b", "a1b"),
        ("a {{ 1 }} b", "a 1 b"),
        ("x\n{{- /* note */ -}}\n y", "xy"),
        ("x{{/* note */}} y", "x y"),
        ("{{ .Text }}}}", "hi}}"),
        ("{{ .Text\n}}", "hi"),
        ("{{.Text}}{{ $.Text }}", "hihi"),
        ("{{ .Missing }}", "<no value>"),
        ("{{ .Nil }} {{ .Map }} {{ .List }} {{ true }} {{ .Float }}", "<no value> map[a:x b:1] [1 2 3] true 1.5"),
        ("{{ .Nested.List }}", "[map[Name:p] map[Name:q]]"),
        ("{{ .Struct.Name }}{{ .Struct }}", "n{n 3}"),
        ("{{ (index .Nested.List 1).Name }}", "q"),
        # conditions
        ("{{ if .Text }}a{{ else }}b{{ end }}", "a"),
        ("{{ if .Empty }}a{{ else if .Zero }}b{{ else if .List }}c{{ else }}d{{ end }}", "c"),
        ("{{ if .Missing }}a{{ end }}", ""),
        ("{{ if .Struct }}a{{ end }}{{ if 0.0 }}b{{ end }}{{ if .Nested }}c{{ end }}", "ac"),
        ("{{ with .Text }}{{ . }}{{ else }}no{{ end }}", "hi"),
        ("{{ with .Empty }}{{ . }}{{ else with .Map }}{{ .a }}{{ end }}", "x"),
        ("{{ with $x := .Text }}{{ $x }}{{ end }}", "hi"),
        # loops
        ("{{ range .List }}{{ . }},{{ end }}", "1,2,3,"),
        ("{{ range $x := .List }}{{ $x }}{{ . }},{{ end }}", "11,22,33,"),
        ("{{ range $i, $x := .List }}{{ if $i }}, {{ end }}{{ $i }}={{ $x }}{{ end }}", "0=1, 1=2, 2=3"),
        ("{{ range $k, $v := .Map }}{{ $k }}={{ $v }};{{ end }}", "a=x;b=1;"),
        ("{{ range .Empty | print | len | slice .List }}{{ . }}{{ else }}none{{ end }}", "123"),
        ("{{ range .Missing }}a{{ else }}none{{ end }}", "none"),
        ("{{ range .List }}{{ if eq . 2 }}{{ continue }}{{ end }}{{ . }}{{ end }}", "13"),
        ("{{ range .List }}{{ if eq . 2 }}{{ break }}{{ end }}{{ . }}{{ end }}", "1"),
        ("{{ range 3 }}{{ . }}{{ end }}", "012"),
        ("{{ range .List }}{{ $.Text }}{{ end }}", "hihihi"),
        # variables
        ("{{ $x := 1 }}{{ $x }}{{ $x = 2 }}{{ $x }}", "12"),
        ("{{ $x := 1 }}{{ range .List }}{{ $x = . }}{{ end }}{{ $x }}", "3"),
        ("{{ $x := 1 }}{{ if true }}{{ $x := 2 }}{{ $x }}{{ end }}{{ $x }}", "21"),
        ("{{ $x := 9 }}{{ range $x = .List }}{{ end }}{{ $x }}", "3"),
        ("{{ $n := .Nested }}{{ range $n.List }}{{ .Name }}{{ end }}", "pq"),
        # templates in templates
        ('{{ define "t" }}[{{ . }}{{ $ }}]{{ end }}{{ template "t" .Text }}', "[hihi]"),
        ('{{ block "b" .List }}{{ len . }}{{ end }}', "3"),
        (
            '{{ define "a" }}{{ if . }}{{ . }}{{ template "a" (slice . 1) }}{{ end }}{{ end }}{{ template "a" "xyz" }}',
            "xyzyzz",
        ),
        # comparisons and logic
        (
            '{{ eq 1 1 }}{{ eq 1 2 1 }}{{ ne "a" "b" }}{{ lt 1 2 }}{{ le 2 2 }}{{ gt "b" "a" }}{{ ge 1 2 }}',
            "true" * 6 + "false",
        ),
        ("{{ eq .Nil nil }}{{ eq .Missing .Nil }}{{ eq .Text nil }}", "truetruefalse"),
        ('{{ and 1 "" 2 | printf "%q" }}{{ or 0 "x" }}{{ and 1 2 }}{{ not 0 }}', '""x2true'),
        ("{{ or .Text (index .List 99) }}{{ and .Nil (index .List 99) }}", "hi<no value>"),
        ("{{ if and (eq .Text `hi`) (not .Empty) }}yes{{ end }}", "yes"),
        # functions
        ('{{ len .Text }}{{ len "é" }}{{ len .Map }}', "222"),
        ('{{ index .Map "a" }}{{ index .List 2 }}{{ index .Map "zz" }}{{ index "abc" 1 }}', "x3<no value>98"),
        ('{{ slice "hello" 1 3 }}{{ slice .List 1 }}{{ slice "ab" }}', "el[2 3]ab"),
        ('{{ print 1 2 "a" 3 }}|{{ println 1 "x" }}', "1 2a3|1 x\n"),
        ("{{ \"<a href='x'>&\" | html }}", "&lt;a href=&#39;x&#39;&gt;&amp;"),
        ("{{ js `<a>'\"\n` }}", "\\u003Ca\\u003E\\'\\\"\\u000A"),
        ("{{ urlquery `a b&c/é~` }}", "a+b%26c%2F%C3%A9~"),
        (
            '{{ json .Map }}{{ json "<é&>" }}{{ json .List }}{{ json nil }}',
            '{"a":"x","b":1}"\\u003cé\\u0026\\u003e"[1,2,3]null',
        ),
        ('{{ currentDate }} {{ yesterdayDate "ignored" }}', "2026-03-01 2026-02-28"),
        ("{{ toTypeScriptType 3 }}", "any"),
        # constants
        (
            "{{ 0x10 }} {{ 1_000 }} {{ 010 }} {{ 0b11 }} {{ -3 }} {{ 1e3 }} {{ 'a' }} {{ '\\n' }}",
            "16 1000 8 3 -3 1000 97 10",
        ),
        ('{{ "q\\"\\u00e9\\x41\\101\\n" }}{{ `raw \\n` }}', 'q"éAA\nraw \\n'),
        (
            "{{ 1.0 }} {{ 1000000.0 }} {{ 123456.0 }} {{ 0.00001 }} {{ 9007199254740993.0 }}",
            "1 1e+06 123456 1e-05 9.007199254740992e+15",
        ),
        # printf
        ('{{ printf "%s|%d|%v|%q|%.2f|%t|%%" "s" 3 .List "a\\n" 1.5 true }}', 's|3|[1 2 3]|"a\\n"|1.50|true|%'),
        (
            '{{ printf "%5d|%-5s|%05d|%+d|%x|%X|%o|%b|%c|%U" 3 "z" -42 7 255 "hi" 8 5 233 233 }}',
            "    3|z    |-0042|+7|ff|6869|10|101|é|U+00E9",
        ),
        ('{{ printf "%5.1f|%e|%g|%6.2f|%.3s" 2.25 1.5 0.5 3.14159 "abcdef" }}', "  2.2|1.500000e+00|0.5|  3.14|abc"),
        ('{{ printf "%[2]s %[1]s" "a" "b" }}{{ printf "%*d" 4 7 }}', "b a   7"),
        (
            '{{ printf "%d" "hi" }} {{ printf "%s" }} {{ printf "x" 1 "b" }} {{ printf "%" }}',
            "%!d(string=hi) %!s(MISSING) x%!(EXTRA int=1, string=b) %!(NOVERB)",
        ),
        ('{{ printf "%s %v %T" nil nil 1 }}{{ "a" | printf "%s-%s" "b" }}', "%!s(<nil>) <nil> intb-a"),
    ],
)
def test_it_prints_what_go_prints(source: str, expected: str) -> None:
    assert render(source) == expected


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{{ .Foo", "template: :1: unclosed action"),
        ("\n{{ .Foo\n\n", "template: :4: unclosed action started at :2"),
        ("{{ if .Foo }}", "template: :1: unexpected EOF"),
        ("{{ undefined }}", 'template: :1: function "undefined" not defined'),
        ("{{ $x }}", 'template: :1: undefined variable "$x"'),
        ("{{ if true }}{{ $x := 1 }}{{ end }}{{ $x }}", 'template: :1: undefined variable "$x"'),
        ("{{ end }}", "template: :1: unexpected {{end}}"),
        ("{{ else }}", "template: :1: unexpected {{else}}"),
        ("{{ if }}{{ end }}", "template: :1: missing value for if"),
        ("{{ if 1 }}{{ else }}{{ else }}{{ end }}", "template: :1: expected end; found {{else}}"),
        ("{{ range 1 }}{{ else if 1 }}{{ end }}", "template: :1: unexpected <if> in input"),
        ("{{ break }}", "template: :1: {{break}} outside {{range}}"),
        ('{{ range 1 }}{{ define "x" }}{{ end }}{{ end }}', "template: :1: unexpected <define> in command"),
        (
            '{{ range 1 }}{{ block "x" . }}{{ continue }}{{ end }}{{ end }}',
            "template: :1: {{continue}} outside {{range}}",
        ),
        (
            '{{ define "a" }}x{{ end }}{{ define "a" }}y{{ end }}',
            'template: :1: template: multiple definition of template "a"',
        ),
        ("{{ template `a` }}", "undefined template specified"),
        ("{{ template a . }}", 'template: :1: unexpected "a" in template clause'),
        ("{{ 1 | 2 }}", "template: :1: non executable command in pipeline stage 2"),
        ("{{ nil.X }}", 'template: :1: unexpected . after term "nil"'),
        ("{{ .A } }}", 'template: :1: unexpected "}" in operand'),
        ("{{ (.A }}", "template: :1: unclosed left paren"),
        ("{{ .A) }}", "template: :1: unexpected right paren"),
        ("{{ $a, $b := 1 }}", "template: :1: too many declarations in command"),
        ("{{ range $a, 1 }}{{ end }}", "template: :1: range can only initialize variables"),
        ("{{ .A: }}", "template: :1: expected :="),
        ("{{ .A# }}", "template: :1: bad character U+0023 '#'"),
        ("{{ \x01 }}", "template: :1: unrecognized character in action: U+0001"),
        ('{{ "abc }}', "template: :1: unterminated quoted string"),
        ("{{ `abc }}", "template: :1: unterminated raw quoted string"),
        ("{{ 'a }}", "template: :1: unterminated character constant"),
        ("{{ 'ab' }}", "template: :1: malformed character constant: 'ab'"),
        ('{{ "\\z" }}', "template: :1: invalid syntax"),
        ("{{ 1x }}", 'template: :1: bad number syntax: "1x"'),
        ("{{ 09 }}", 'template: :1: illegal number syntax: "09"'),
        ("{{ 99999999999999999999 }}", 'template: :1: integer overflow: "99999999999999999999"'),
        ("{{/* open", "template: :1: unclosed comment"),
        ("{{/* x */ .A }}", "template: :1: comment ends before closing delimiter"),
        ("{{ a_very_long_name . }}", 'template: :1: function "a_very_long_name" not defined'),
        ("{{ with 1 }}\n{{ .A :: }}", "template: :2: expected :="),
    ],
)
def test_it_complains_as_go_does_about_syntax(source: str, message: str) -> None:
    with pytest.raises(InvalidTemplate) as error:
        GoTemplate(source)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{{ .Text.X }}", 'template: :1:3: executing "" at <.Text.X>: can\'t evaluate field X in type string'),
        (
            "\né{{ .Struct.X }}",
            'template: :2:5: executing "" at <.Struct.X>: can\'t evaluate field X in type api.Thing',
        ),
        ("{{ .Missing.X }}", 'template: :1:3: executing "" at <.Missing.X>: nil pointer evaluating interface {}.X'),
        ("{{ index .List 5 }}", 'template: :1:3: executing "" at <index>: error calling index: index out of range: 5'),
        (
            "{{ eq .Text 1 }}",
            'template: :1:3: executing "" at <eq>: error calling eq: incompatible types for comparison',
        ),
        ("{{ lt true false }}", 'template: :1:3: executing "" at <lt>: error calling lt: invalid type for comparison'),
        ("{{ len 3 }}", 'template: :1:3: executing "" at <len>: error calling len: len of type int'),
        ("{{ not 1 2 }}", 'template: :1:3: executing "" at <not>: wrong number of args for not: want 1 got 2'),
        (
            "{{ index }}",
            'template: :1:3: executing "" at <index>: wrong number of args for index: want at least 1 got 0',
        ),
        ("{{ nil }}", 'template: :1:3: executing "" at <nil>: nil is not a command'),
        ("{{ .Text 1 }}", 'template: :1:3: executing "" at <.Text>: Text is not a method but has arguments'),
        ("{{ 1 2 }}", 'template: :1:3: executing "" at <1>: can\'t give argument to non-function 1'),
        ("{{ range .Text }}{{ end }}", 'template: :1:9: executing "" at <.Text>: range can\'t iterate over hi'),
        ("{{ template `x` . }}", 'template: :1:12: executing "" at <{{template "x" .}}>: template "x" not defined'),
        ("{{ call .Text }}", 'template: :1:3: executing "" at <call>: error calling call: non-function of type string'),
    ],
)
def test_it_complains_as_go_does_while_executing(source: str, message: str) -> None:
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
    ('{{ printf "%1000000000d" 1 }}', SIZE),
    ('{{ printf "%.1000000000f" 1.0 }}', SIZE),
    ('{{ printf "%*d" 1000000000 1 }}', SIZE),
    ('{{ printf "%.' + "9" * 5000 + 'd" 1 }}', SIZE),
    ('{{ $s := printf "%1000000d" 1 }}{{ print' + " $s" * 20000 + " }}", SIZE),
    ('{{ $s := printf "%1000000d" 1 }}{{ printf "' + "%[1]s" * 1000 + '" $s }}', SIZE),
    ("{{ range 1000000 }}xxxxxxxxxxxxxxxxxxxx{{ end }}", SIZE),
    ("a" * 70_000, "limit of 65,536 characters"),
]


@pytest.mark.parametrize(("source", "limit"), HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_templates_end_at_a_limit(source: str, limit: str) -> None:
    with pytest.raises(InvalidTemplate, match=limit):
        render(source, time_s=0.2 if limit is TIME else 60)


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


@given(text=st.text(st.characters(exclude_characters="{"), max_size=60))
def test_text_without_braces_is_its_own_rendering(text: str) -> None:
    assert render(text) == text


def test_urlquery_of_half_a_character() -> None:
    assert GoTemplate("{{ urlquery .Prompt }}").execute({"Prompt": "a\ud800", "Response": ""}) == "a%3F"
