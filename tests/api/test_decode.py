"""Decoding as Go's encoding/json does it, error texts included."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from api.decode import decode
from api.json_syntax import parse, quoted, syntax_error
from api.ollama import wire
from appliance.errors import InvalidRequest


def error_of(kind: Any, body: str | bytes) -> str:
    with pytest.raises(InvalidRequest) as raised:
        decode(kind, body.encode() if isinstance(body, str) else body)
    return str(raised.value)


def chat(body: str) -> wire.ChatRequest:
    return decode(wire.ChatRequest, body.encode())


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("", "missing request body"),
        (" \n\t", "missing request body"),
        ("x", "invalid character 'x' looking for beginning of value"),
        ("model=x", "invalid character 'm' looking for beginning of value"),
        ("'a'", "invalid character '\\'' looking for beginning of value"),
        ("\ufeff{}", "invalid character 'ï' looking for beginning of value"),
        (b"\x00", "invalid character '\\x00' looking for beginning of value"),
        (b"\x85", "invalid character '\\u0085' looking for beginning of value"),
        ("{", "unexpected EOF"),
        ('{"a"', "unexpected EOF"),
        ('{"a":', "unexpected EOF"),
        ('{"a":1', "unexpected EOF"),
        ('{"a":"b', "unexpected EOF"),
        ('{"a":"b\\', "unexpected EOF"),
        ('{"a":"\\u12', "unexpected EOF"),
        ('{"a":-', "unexpected EOF"),
        ('{"a":tr', "unexpected EOF"),
        ("[1,", "unexpected EOF"),
        ('{"a":1,}', "invalid character '}' looking for beginning of object key string"),
        ("{a:1}", "invalid character 'a' looking for beginning of object key string"),
        ('{"a" 1}', "invalid character '1' after object key"),
        ('{"a":1 "b":2}', "invalid character '\"' after object key:value pair"),
        ("[1 2]", "invalid character '2' after array element"),
        ("[1,]", "invalid character ']' looking for beginning of value"),
        ('{"a":}', "invalid character '}' looking for beginning of value"),
        ('{"a":"\n"}', "invalid character '\\n' in string literal"),
        ('{"a":"\\x"}', "invalid character 'x' in string escape code"),
        ('{"a":"\\u12g4"}', "invalid character 'g' in \\u hexadecimal character escape"),
        ('{"a":-x}', "invalid character 'x' in numeric literal"),
        ('{"a":+1}', "invalid character '+' looking for beginning of value"),
        ('{"a":01}', "invalid character '1' after object key:value pair"),
        ('{"a":1.}', "invalid character '}' after decimal point in numeric literal"),
        ('{"a":1e}', "invalid character '}' in exponent of numeric literal"),
        ('{"a":1e+}', "invalid character '}' in exponent of numeric literal"),
        ('{"a":trux}', "invalid character 'x' in literal true (expecting 'e')"),
        ('{"a":folse}', "invalid character 'o' in literal false (expecting 'a')"),
        ('{"a":nil}', "invalid character 'i' in literal null (expecting 'u')"),
        ('{"a":NaN}', "invalid character 'N' looking for beginning of value"),
        ('{"a":-Infinity}', "invalid character 'I' in numeric literal"),
        ("[" * 10_001, "invalid character '[' exceeded max depth"),
        ('{"a":' * 100_000, "invalid character '{' exceeded max depth"),
        ("[" * 5000 + "]" * 5000, "exceeded max depth"),
    ],
)
def test_malformed(body: str | bytes, text: str) -> None:
    assert error_of(wire.ChatRequest, body) == text


@pytest.mark.parametrize(
    ("kind", "body", "text"),
    [
        (wire.GenerateRequest, '{"stream":"yes"}', "string into Go struct field GenerateRequest.stream of type bool"),
        (wire.GenerateRequest, '{"MODEL":1}', "number into Go struct field GenerateRequest.model of type string"),
        (wire.GenerateRequest, '{"raw":[]}', "array into Go struct field GenerateRequest.raw of type bool"),
        (
            wire.GenerateRequest,
            '{"context":[1,1.5]}',
            "number 1.5 into Go struct field GenerateRequest.context of type int",
        ),
        (
            wire.GenerateRequest,
            '{"context":[9223372036854775808]}',
            "number 9223372036854775808 into Go struct field GenerateRequest.context of type int",
        ),
        (wire.GenerateRequest, '{"context":"x"}', "string into Go struct field GenerateRequest.context of type []int"),
        (
            wire.GenerateRequest,
            '{"top_logprobs":1e2}',
            "number 1e2 into Go struct field GenerateRequest.top_logprobs of type int",
        ),
        (
            wire.GenerateRequest,
            '{"top_logprobs":true}',
            "bool into Go struct field GenerateRequest.top_logprobs of type int",
        ),
        (
            wire.GenerateRequest,
            '{"options":[]}',
            "array into Go struct field GenerateRequest.options of type map[string]interface {}",
        ),
        (
            wire.GenerateRequest,
            '{"options":{"seed":1e999}}',
            "number 1e999 into Go struct field GenerateRequest.options of type float64",
        ),
        (
            wire.GenerateRequest,
            '{"images":[1]}',
            "number into Go struct field GenerateRequest.images of type api.ImageData",
        ),
        (
            wire.GenerateRequest,
            '{"images":"x"}',
            "string into Go struct field GenerateRequest.images of type []api.ImageData",
        ),
        (
            wire.ChatRequest,
            '{"messages":[{"role":"user","content":[{"type":"text","text":"hi"}]}]}',
            "array into Go struct field ChatRequest.messages.content of type string",
        ),
        (
            wire.ChatRequest,
            '{"messages":"hi"}',
            "string into Go struct field ChatRequest.messages of type []api.Message",
        ),
        (wire.ChatRequest, '{"messages":["hi"]}', "string into Go struct field ChatRequest.messages of type api.Alias"),
        (
            wire.ChatRequest,
            '{"messages":[{"tool_calls":[{"function":{"name":"f","arguments":"{}"}}]}]}',
            "string into Go struct field ChatRequest.messages.tool_calls.function.arguments "
            "of type api.ToolCallFunctionArguments",
        ),
        (wire.ChatRequest, '{"tools":{}}', "object into Go struct field ChatRequest.tools of type api.Tools"),
        (
            wire.ChatRequest,
            '{"tools":[{"function":{"parameters":{"properties":{"type":"object"}}}}]}',
            "string into Go struct field ToolFunctionParameters.tools.function.parameters.properties "
            "of type api.ToolProperty",
        ),
        (
            wire.ChatRequest,
            '{"tools":[{"function":{"parameters":{"properties":{"a":{"type":1}}}}}]}',
            "number into Go struct field ToolProperty.tools.function.parameters.properties.type of type []string",
        ),
        (wire.CreateRequest, '{"files":{"a":1}}', "number into Go struct field CreateRequest.files of type string"),
        (wire.CreateRequest, '{"from":{}}', "object into Go struct field CreateRequest.from of type string"),
        (wire.ShowRequest, '"x"', "string into Go value of type api.ShowRequest"),
        (wire.ShowRequest, "12 34", "number into Go value of type api.ShowRequest"),
        (wire.ShowRequest, "[{}]", "array into Go value of type api.ShowRequest"),
    ],
)
def test_wrong_type(kind: Any, body: str, text: str) -> None:
    assert error_of(kind, body) == f"json: cannot unmarshal {text}"


@pytest.mark.spec(88, 89)
@pytest.mark.parametrize(
    ("body", "text"),
    [
        ('{"images":["!!!!"]}', "illegal base64 data at input byte 0"),
        ('{"images":["aGVsbG8"]}', "illegal base64 data at input byte 4"),
        ('{"images":["aGk=x"]}', "illegal base64 data at input byte 4"),
        ('{"images":["ab=c"]}', "illegal base64 data at input byte 2"),
        ('{"images":["ab="]}', "illegal base64 data at input byte 3"),
        ('{"images":["data:image/png;base64,aGk="]}', "illegal base64 data at input byte 4"),
        ('{"stream":1,"keep_alive":"abc"}', 'time: invalid duration "abc"'),  # an Unmarshaler's error comes first
        ('{"keep_alive":"300"}', 'time: missing unit in duration "300"'),
        ('{"keep_alive":"5x"}', 'time: unknown unit "x" in duration "5x"'),
        ('{"keep_alive":""}', 'time: invalid duration ""'),
        ('{"keep_alive":"-"}', 'time: invalid duration "-"'),
        ('{"keep_alive":".s"}', 'time: invalid duration ".s"'),
        ('{"keep_alive":"9223372037s"}', 'time: invalid duration "9223372037s"'),
        ('{"keep_alive":"é"}', 'time: invalid duration "\\xc3\\xa9"'),
        ('{"keep_alive":true}', "Unsupported type: 'bool'"),
        ('{"keep_alive":[]}', "Unsupported type: '[]interface {}'"),
        ('{"keep_alive":{}}', "Unsupported type: 'map[string]interface {}'"),
        (
            '{"think":"foo"}',
            'invalid think value: "foo" (must be "high", "medium", "low", "max", true, or false)',
        ),
        ('{"think":1}', 'think must be a boolean or string ("high", "medium", "low", "max", true, or false)'),
        ('{"options":{"a":' + "[" * 300 + "]" * 300 + "}}", "exceeded max depth"),
    ],
)
def test_values_that_read_themselves(body: str, text: str) -> None:
    assert error_of(wire.GenerateRequest, body) == text


@pytest.mark.spec(88)
@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("300", 300.0),
        ("0.5", 0.5),
        ("-1", float("inf")),
        ("1e300", float("inf")),
        ("0", 0.0),
        ('"0"', 0.0),
        ('"0s"', 0.0),
        ('"300ms"', 0.3),
        ('"1.5h"', 5400.0),
        ('"2h45m"', 9900.0),
        ('"-1m"', float("inf")),
        ('"+5s"', 5.0),
        ('"1µs"', 1e-6),
        ('"1h1m1s1ms1us1ns"', 3661.001001001),
        ("null", None),
    ],
)
def test_keep_alive(written: str, seconds: float | None) -> None:
    assert decode(wire.GenerateRequest, f'{{"keep_alive":{written}}}'.encode()).keep_alive == seconds


def test_keys_match_whatever_their_case_and_the_last_wins() -> None:
    request = chat('{"Model":"a","MODEL":"b","model":null,"unknown":{"x":[1]},"Messages":[{"ROLE":"User"}]}')
    assert (request.model, request.messages[0].role, request.messages[0].content) == ("b", "User", "")


def test_null_is_absent_everywhere() -> None:
    fields = ("model", "messages", "tools", "stream", "format", "keep_alive", "options", "think", "top_logprobs")
    assert chat(json.dumps(dict.fromkeys(fields))) == chat("null") == chat("{}")
    assert chat('{"messages":[null]}').messages == [wire.Message(role="", content="")]


def test_only_the_first_value_counts() -> None:
    assert chat('  {"model":"a"} trailing {"model":"b"}').model == "a"


def test_strings_are_made_well_formed() -> None:
    assert decode(wire.ChatRequest, b'{"model":"\xff\xe4\xb8!"}').model == "\ufffd\ufffd\ufffd!"
    assert chat(r'{"model":"\ud800\udc00 \ud800 \udc00 \ud800\ud800\udc00 \\ud800"}').model == (
        "\U00010000 \ufffd \ufffd \ufffd\U00010000 \\ud800"
    )


def test_numbers_in_free_form_values() -> None:
    options = chat('{"options":{"a":1,"b":1.5,"c":1e3,"d":-0,"e":123456789012345678901234567890}}').options
    assert options == {"a": 1, "b": 1.5, "c": 1000.0, "d": 0, "e": 1.2345678901234568e29}
    assert isinstance(options["a"], int)
    assert isinstance(options["c"], float)


@pytest.mark.spec(90)
def test_tools_keep_what_templates_see_in_its_order() -> None:
    tool = (
        '{"type":"function","strict":true,"function":{"name":"f","parameters":{"type":"object","required":["b"],'
        '"properties":{"b":{"type":["string","null"],"enum":["x"],"minLength":1},"a":{"type":"integer"}}}}}'
    )
    properties = chat(f'{{"tools":[{tool}]}}').tools[0].function.parameters.properties
    assert list(properties) == ["b", "a"]
    assert properties["b"] == wire.ToolProperty(type=["string", "null"], enum=["x"])


def test_go_quotes() -> None:
    assert quoted('a"\\\n\x01\x7f\u200b\U000e0001é') == '"a\\"\\\\\\n\\x01\\x7f\\u200b\\U000e0001é"'


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda x: st.lists(x) | st.dictionaries(st.text(), x),
    )
)
def test_the_scanner_finds_no_fault_in_sound_json(value: Any) -> None:
    assert syntax_error(json.dumps(value).encode()) == ""


@given(st.text('{}[]",:0123456789.eE+-truefalsn\\ub \n', min_size=1))
def test_the_scanner_finds_a_fault_whenever_the_parser_does(text: str) -> None:
    try:
        parse(text.encode())
    except InvalidRequest as error:
        fault = str(error)
        event(fault[-20:])
        assert syntax_error(text.encode()) == fault or not text.strip()
