"""Templates by Go's grammar, for hypothesis: well formed, though not always well typed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

DATA: dict[str, Any] = {
    "Text": "hé <b> & \"q\" 'z'\n",
    "Empty": "",
    "Response": "",
    "Word": "abc",
    "Zero": 0,
    "One": 1,
    "Big": -12345678901234,
    "Half": 0.5,
    "Huge": 1.5e21,
    "Yes": True,
    "No": False,
    "Nil": None,
    "List": [1, "two", 3.0, None, [4]],
    "Words": ["x", "", "zé"],
    "None": [],
    "Map": {"b": 1, "a": "x", "n": None, "m": {"k": [True]}},
    "Hollow": {},
    "Items": [{"Name": "p", "Count": 2}, {"Name": "q"}, {"Name": "", "Count": 0}],
}
FIELDS = [f".{name}" for name in DATA]
PATHS = [
    *FIELDS,
    ".Map.a",
    ".Map.m.k",
    ".Map.n",
    ".Missing",
    ".Missing.X",
    ".Text.X",
    ".Name",
    ".Count",
    "$.Word",
    "$",
    ".",
]
NUMBERS = ["0", "1", "2", "-1", "0x1F", "1_000", "017", "0b11", "1.5", "2e3", "1e21", ".5", "'a'", "'\\n'", "'é'"]
STRINGS = ['""', '"a"', '"two"', '"%d"', '"b\\tc\\u00e9\\x41"', "`raw \\n`", '"Name"', '"é"', '"k"']
LITERALS = [*NUMBERS, *STRINGS, "true", "false", "nil"]
NAMES = """and or not eq ne lt le gt ge len index slice print printf println html js urlquery json call currentDate
    yesterdayDate"""
FUNCTIONS = NAMES.split()
TEXTS = ["a", " ", "\n", " b ", "\n\n  c\n", "é{", "}}", "<x>"]


@st.composite
def directives(draw: st.DrawFn) -> str:
    """A layout for printf."""
    one = st.builds(
        "%{}{}{}{}".format,
        st.text("#0+- ", max_size=2),
        st.sampled_from(["", "", "5", "1", "12", "*", "[1]", "[2]", "[3]*", "[1]6"]),
        st.sampled_from(["", "", ".2", ".", ".0", ".*", ".[1]3", ".[2]*"]),
        st.sampled_from([*"vdsqtxXobcUOTfFeEgG%wz", "[1]d", "[2]v", "", "é"]),
    )
    return "".join(draw(st.lists(st.one_of(one, st.sampled_from(["a", " ", "é"])), min_size=1, max_size=3)))


def operands(draw: st.DrawFn, variables: list[str], depth: int) -> str:
    """A value: a literal, a field, a variable, or a pipeline in parentheses."""
    match draw(st.integers(0, 9)):
        case 0 | 1 | 2:
            return draw(st.sampled_from(LITERALS))
        case 3 if variables:
            return draw(st.sampled_from(variables)) + draw(st.sampled_from(["", "", ".Name", ".a"]))
        case 4 | 5 if depth:
            return f"({pipelines(draw, variables, depth - 1)})" + draw(st.sampled_from(["", "", ".Name", ".m.k"]))
    return draw(st.sampled_from(PATHS))


def commands(draw: st.DrawFn, variables: list[str], depth: int, piped: bool = False) -> str:
    """A function and its arguments, or a value."""
    match draw(st.integers(0, 11)):
        case 0 | 1 | 2 if not piped:
            return operands(draw, variables, depth)
        case 3:
            layout = json.dumps(draw(directives()), ensure_ascii=False)
            count = draw(st.integers(0, 3))
            return " ".join(["printf", layout, *(operands(draw, variables, depth) for _ in range(count))])
        case 4:
            return " ".join([operands(draw, variables, depth), operands(draw, variables, depth)])
    function = draw(st.sampled_from(FUNCTIONS))
    count = draw(st.integers(0 if piped else 1, 1 if piped else 3))
    return " ".join([function, *(operands(draw, variables, depth) for _ in range(count))])


def pipelines(draw: st.DrawFn, variables: list[str], depth: int) -> str:
    """Commands, each given the result of the one before it."""
    first = commands(draw, variables, depth)
    more = [commands(draw, variables, depth, piped=True) for _ in range(draw(st.sampled_from([0, 0, 0, 1, 1, 2])))]
    return " | ".join([first, *more])


def _action(draw: st.DrawFn, inside: str) -> str:
    return (
        draw(st.sampled_from(["{{", "{{", "{{ ", "{{- "])) + inside + draw(st.sampled_from(["}}", "}}", " }}", " -}}"]))
    )


def blocks(draw: st.DrawFn, variables: list[str], depth: int, looping: bool) -> str:
    """Text, actions and control structures in a row; what they declare is in sight to the end of the block."""
    mine, pieces = list(variables), []
    for _ in range(draw(st.integers(0, 3))):
        kind = draw(st.sampled_from(["text", "value", "value", "set", "if", "with", "range", "jump", "comment", "sub"]))
        if kind in STRUCTURES and depth:
            pieces.append(STRUCTURES[kind](draw, mine, depth - 1, looping))
        elif kind == "set":
            name = draw(st.sampled_from(["$x", "$y", "$long_Name1"]))
            sign = "=" if name in mine and draw(st.booleans()) else ":="
            pieces.append(_action(draw, f"{name} {sign} {pipelines(draw, mine, 1)}"))
            mine.append(name)
        elif kind == "jump" and looping:
            word = _action(draw, draw(st.sampled_from(["break", "continue"])))
            pieces.append(_action(draw, f"if {pipelines(draw, mine, 1)}") + word + "{{end}}")
        elif kind == "comment":
            pieces.append(draw(st.sampled_from(["{{/* c */}}", "{{- /* a\nb */ -}}", "{{/**/ -}}"])))
        elif kind == "text":
            pieces.append(draw(st.sampled_from(TEXTS)))
        else:
            pieces.append(_action(draw, pipelines(draw, mine, 1)))
    return "".join(pieces)


def _if(draw: st.DrawFn, variables: list[str], depth: int, looping: bool) -> str:
    pieces = [_action(draw, f"if {pipelines(draw, variables, 1)}"), blocks(draw, variables, depth, looping)]
    if draw(st.booleans()):
        pieces += [_action(draw, f"else if {pipelines(draw, variables, 1)}"), blocks(draw, variables, depth, looping)]
    if draw(st.booleans()):
        pieces += [_action(draw, "else"), blocks(draw, variables, depth, looping)]
    return "".join([*pieces, _action(draw, "end")])


def _with(draw: st.DrawFn, variables: list[str], depth: int, looping: bool) -> str:
    name = draw(st.sampled_from(["", "", "$w"]))
    head = f"with {name + ' := ' if name else ''}{pipelines(draw, variables, 1)}"
    inner = [*variables, name] if name else variables
    pieces = [_action(draw, head), blocks(draw, inner, depth, looping)]
    if draw(st.booleans()):
        pieces += [_action(draw, "else"), blocks(draw, inner, depth, looping)]
    return "".join([*pieces, _action(draw, "end")])


def _range(draw: st.DrawFn, variables: list[str], depth: int, looping: bool) -> str:
    names = draw(st.sampled_from([[], [], ["$v"], ["$i", "$v"]]))
    over = draw(
        st.sampled_from([".List", ".Words", ".Map", ".Items", ".None", ".Nil", ".Hollow", "slice $.Words 1", ""])
    )
    declared = ", ".join(names) + " := " if names else ""
    head = _action(draw, f"range {declared}{over or pipelines(draw, variables, 1)}")
    pieces = [head, blocks(draw, [*variables, *names], depth, True)]
    if draw(st.booleans()):
        pieces += [_action(draw, "else"), blocks(draw, variables, depth, looping)]
    return "".join([*pieces, _action(draw, "end")])


def _sub(draw: st.DrawFn, variables: list[str], depth: int, looping: bool) -> str:
    name = draw(st.sampled_from(["t", "u"]))
    value = pipelines(draw, variables, 1)
    if draw(st.booleans()):
        return _action(draw, f'block "{name}" {value}') + blocks(draw, [], 0, False) + "{{end}}"
    return _action(draw, f'template "{name}" {value}')


Structure = Callable[[st.DrawFn, list[str], int, bool], str]
STRUCTURES: dict[str, Structure] = {"if": _if, "with": _with, "range": _range, "sub": _sub}


@st.composite
def templates(draw: st.DrawFn) -> str:
    """A template, maybe with one that it defines."""
    body = blocks(draw, [], 3, False)
    if draw(st.booleans()):
        body = '{{define "t"}}' + blocks(draw, [], 1, False) + "{{end}}" + body
    return body


TOKENS = """{{ }} {{ }} {{- -}} {{/* */}} if else end range with define template block break continue . .A.B .Text $ $x
    $x.y , := = | ( ) ) "a" "b\\z" `c` 'd' 1 2.5 1x 09 0x true nil eq index printf undefined # é \x01 ² 'ab ' " `
    99999999999999999999 -- +.e"""


def soups() -> st.SearchStrategy[str]:
    """Tokens in any order: what is wrong with them is the question."""
    token = st.sampled_from([*TOKENS.split(), "\n", " "])
    return st.builds(str.join, st.sampled_from(["", " "]), st.lists(token, max_size=12))


def ranges_over_an_integer(error: str) -> bool:
    """Whether Go's complaint is about what its later versions do."""
    return re.search(r"range can't iterate over -?\d+$", error) is not None
