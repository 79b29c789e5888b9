"""Modelfiles: grammar, errors, writing."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.core import Message
from appliance.errors import InvalidModelfile
from appliance.store.modelfile import Modelfile, format_modelfile, parse_modelfile, quote

COMMAND = (
    'command must be one of "from", "license", "template", "system", "adapter", "draft", "renderer", "parser", '
    '"parameter", "message", or "requires"'
)


def test_how_a_model_is_converted() -> None:
    modelfile = parse_modelfile("FROM m\nPARAMETER recipe int8-rotated\nPARAMETER kv_cache_type q8_0\n")
    assert modelfile.parameters == {"recipe": "int8-rotated", "kv_cache_type": "q8_0"}
    assert parse_modelfile(format_modelfile(modelfile)) == modelfile
    with pytest.raises(InvalidModelfile, match=r"invalid recipe \[int4\]; one of: auto, exact, compact"):
        parse_modelfile("FROM m\nPARAMETER recipe int4\n")
    with pytest.raises(InvalidModelfile, match=r"invalid kv_cache_type \[f16\]; one of: f32, q8_0"):
        parse_modelfile("FROM m\nPARAMETER kv_cache_type f16\n")


@pytest.mark.spec(94)
def test_everything_at_once() -> None:
    text = """
# a comment
FROM model1
from ./projector.gguf
ADAPTER adapter1
DRAFT draft1
LICENSE MIT
license Apache
PARAMETER temperature 0.7
PARAMETER top_k 10
PARAMETER use_mmap false
PARAMETER stop <a>
PARAMETER stop "<b> "
TEMPLATE first
TEMPLATE \"\"\"{{ if .System }}
"quoted"
{{ end }}\"\"\"
\tSYSTEM   You are a parser. # no comment here
RENDERER r
PARSER p
REQUIRES v0.14.0
MESSAGE system You are a file.
MESSAGE user Hey there!
MESSAGE assistant "Hello, I want to parse
all the things!"
"""
    assert parse_modelfile(text) == Modelfile(
        sources=("model1", "./projector.gguf"),
        adapter="adapter1",
        draft="draft1",
        template='{{ if .System }}\n"quoted"\n{{ end }}',
        system="You are a parser. # no comment here",
        renderer="r",
        parser="p",
        requires="0.14.0",
        parameters={"temperature": 0.7, "top_k": 10, "use_mmap": False, "stop": ["<a>", "<b> "]},
        licenses=("MIT", "Apache"),
        messages=(
            Message("system", "You are a file."),
            Message("user", "Hey there!"),
            Message("assistant", "Hello, I want to parse\nall the things!"),
        ),
    )


@pytest.mark.spec(94)
@pytest.mark.parametrize(
    ("value", "system"),
    [
        ("bare", "bare"),
        ("  padded \t", "padded"),
        ('"quoted"', "quoted"),
        ('" kept "', " kept "),
        ('"""three"""', "three"),
        ('""', ""),
        ('""""""', ""),
        ("", ""),
        ('"""a\nb"""', "a\nb"),
        ('"a\nb"', "a\nb"),
        ('"a\r\nb"', "a\r\nb"),
        ('"""\na "b"\n"""', '\na "b"\n'),
        ('"""a""" b\n"""', 'a""" b\n'),
        ('"a" b"', 'a" b'),
        ('"a" b\n"', 'a" b\n'),
        ("'single'", "'single'"),
        ('un"quoted"', 'un"quoted"'),
        ('"""a "b""""', 'a "b"'),
    ],
)
def test_values(value: str, system: str) -> None:
    assert parse_modelfile(f"FROM x\nSYSTEM {value}").system == system
    assert parse_modelfile(f"FROM x\nSYSTEM {value}\nLICENSE l\n") == Modelfile(("x",), system=system, licenses=("l",))


@pytest.mark.spec(94)
@pytest.mark.parametrize("newline", ["\n", "\r", "\r\n"])
def test_line_ends(newline: str) -> None:
    text = newline.join(["FROM foo", "", "# note", "SYSTEM bar", "LICENSE baz"])
    assert parse_modelfile(text) == Modelfile(("foo",), system="bar", licenses=("baz",))
    with pytest.raises(InvalidModelfile, match=r"^\(line 3\): command must be") as caught:
        parse_modelfile(newline.join(["", "FROM foo", "BAD bar"]))
    assert caught.value.line == 3
    with pytest.raises(InvalidModelfile, match=r"^unknown parameter 'x'$") as caught:
        parse_modelfile(newline.join(["FROM foo", "SYSTEM bar", "PARAMETER x 1", ""]))
    assert caught.value.line == 3


@pytest.mark.spec(94)
@pytest.mark.parametrize(
    "encoded",
    [
        "FROM bob\nSYSTEM ünïcode 日本\n".encode(),
        b"\xef\xbb\xbf" + "FROM bob\nSYSTEM ünïcode 日本\n".encode(),
        b"\xff\xfe" + "FROM bob\nSYSTEM ünïcode 日本\n".encode("utf-16-le"),
        b"\xfe\xff" + "FROM bob\nSYSTEM ünïcode 日本\n".encode("utf-16-be"),
    ],
)
def test_encodings(encoded: bytes) -> None:
    assert parse_modelfile(encoded) == Modelfile(("bob",), system="ünïcode 日本")


def test_what_cannot_be_printed_is_dropped() -> None:
    assert parse_modelfile('FROM a\x00b\u200bc\u00a0d\nSYSTEM "t\tb"').sources == ("abcd",)
    assert parse_modelfile('FROM a\nSYSTEM "t\tb"').system == "t\tb"
    assert parse_modelfile(b"FROM a\xffb").sources == ("a\ufffdb",)


@pytest.mark.spec(94)
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no FROM line"),
        ("# FROM x", "no FROM line"),
        ("SYSTEM x", "no FROM line"),
        ("FROM x\nBADCOMMAND y\n", f"(line 2): {COMMAND}"),
        ("FROM x\nSYSTEM\nLICENSE y", f"(line 2): {COMMAND}"),
        ("FROM x\n\n\nSY5TEM y", f"(line 4): {COMMAND}"),
        ('FROM x\nMESSAGE alice "hi"', '(line 2): message role must be one of "system", "user", or "assistant"'),
        ("FROM x\nMESSAGE User hi", '(line 2): message role must be one of "system", "user", or "assistant"'),
        ("FROM x\nMESSAGE user", "unexpected EOF"),
        ("FROM x\nMESSAGE user\nhi", "unexpected EOF: user"),
        ("FROM x\nPARAMETER temp-x 1", "unexpected EOF: temp"),
        ("FROM", "unexpected EOF"),
        ("FROM x\nPARAMETER stop", "unexpected EOF"),
        ('FROM x\nSYSTEM "open', "unexpected EOF"),
        ('FROM x\nSYSTEM """open""\nLICENSE y\n', "unexpected EOF"),
        ("FROM x\nPARAMETER nope 1", "unknown parameter 'nope'"),
        ("FROM x\nPARAMETER temperature hot", "invalid float value [hot]"),
        ("FROM x\nPARAMETER temperature nan", "invalid float value [nan]"),
        ("FROM x\nPARAMETER temperature 1_0", "invalid float value [1_0]"),
        ("FROM x\nPARAMETER num_ctx 4.5", "invalid int value [4.5]"),
        ("FROM x\nPARAMETER num_ctx 9223372036854775808", "invalid int value [9223372036854775808]"),
        ("FROM x\nPARAMETER use_mmap yes", "invalid bool value [yes]"),
        ("FROM x\nREQUIRES newest", "requires must be a valid semver (e.g. 0.14.0)"),
        ("FROM x\nREQUIRES 01.2.3", "requires must be a valid semver (e.g. 0.14.0)"),
    ],
)
def test_errors(text: str, message: str) -> None:
    with pytest.raises(InvalidModelfile) as caught:
        parse_modelfile(text)
    assert str(caught.value) == message


def test_deprecated_parameters_are_skipped_with_a_warning() -> None:
    modelfile = parse_modelfile("FROM x\nPARAMETER mirostat 1\nPARAMETER seed 1")
    assert modelfile.parameters == {"seed": 1}
    assert modelfile.warnings == ("warning: parameter mirostat is deprecated",)


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("plain", "plain"),
        ('say "x"', 'say "x"'),
        (" edge", '" edge"'),
        ("edge ", '"edge "'),
        ("a\nb", '"a\nb"'),
        ('a "q"\nb', '"""a "q"\nb"""'),
        ("", ""),
        # Ollama writes these bare, and cannot read them back
        ('"starts with a quote', '""""starts with a quote"""'),
        ("\ttab", '"\ttab"'),
        ("a\rb", '"a\rb"'),
    ],
)
def test_quoting(text: str, written: str) -> None:
    assert quote(text) == written


def test_order_of_writing() -> None:
    modelfile = Modelfile(
        ("m", "p"), "a", "d", "t", "s", "r", "q", "1.0.0", {"stop": ["x", "y"], "num_ctx": 4096.0}, ("l",),
        (Message("user", "hi"),),
    )  # fmt: skip
    assert format_modelfile(modelfile) == (
        "FROM m\nADAPTER a\nDRAFT d\nFROM p\nTEMPLATE t\nSYSTEM s\nRENDERER r\nPARSER q\nREQUIRES 1.0.0\n"
        "PARAMETER stop x\nPARAMETER stop y\nPARAMETER num_ctx 4096\nLICENSE l\nMESSAGE user hi\n"
    )


word = st.from_regex(r"[A-Za-z0-9./_-]{1,12}", fullmatch=True)
# every printable text but those with a run of quotes, which no quoting can carry past a line's end
text = st.text(st.characters(codec="utf-8").filter(lambda c: c.isprintable() or c in "\r\n\t"), max_size=40).filter(
    lambda value: '""' not in value and not value.endswith('"')
)
parameters = st.fixed_dictionaries(
    {},
    optional={
        "temperature": st.floats(0, 1e6, allow_nan=False, width=32),
        "num_ctx": st.integers(-(2**63), 2**63 - 1),
        "use_mmap": st.booleans(),
        "stop": st.lists(text, min_size=1, max_size=3),
    },
)


@given(
    st.lists(word, min_size=1, max_size=3),
    text,
    text,
    parameters,
    st.lists(text, max_size=2),
    st.lists(st.builds(Message, st.sampled_from(["user", "assistant", "system"]), text), max_size=3),
)
def test_what_is_written_reads_back(
    sources: list[str],
    system: str,
    template: str,
    parameters: dict[str, Any],
    licenses: list[str],
    messages: list[Message],
) -> None:
    modelfile = Modelfile(
        tuple(sources),
        system=system,
        template=template,
        parameters=parameters,
        licenses=tuple(licenses),
        messages=tuple(messages),
    )
    assert parse_modelfile(format_modelfile(modelfile)) == modelfile


@given(st.binary(max_size=200) | st.text(st.sampled_from('FROM SYTEM"\n\r\t#PAREsg :x'), max_size=60).map(str.encode))
def test_any_bytes_parse_or_are_refused(source: bytes) -> None:
    with contextlib.suppress(InvalidModelfile):
        assert parse_modelfile(source).sources
