"""JSON and values as Go prints them. Expected texts are from the rules in Go's documentation."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.store.gojson import encode, go_syntax


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"b": 1, "a": [True, None, "x"]}, '{"b":1,"a":[true,null,"x"]}'),
        ("<a> & b", '"\\u003ca\\u003e \\u0026 b"'),
        ("\u2028\u2029", '"\\u2028\\u2029"'),
        ("é日\x7f", '"é日\x7f"'),
        ('"\\\n\t\x01', '"\\"\\\\\\n\\t\\u0001"'),
        (1.0, "1"),
        (0.7, "0.7"),
        (1e20, "100000000000000000000"),
        (1e21, "1e+21"),
        (1e-6, "0.000001"),
        (1.5e-7, "1.5e-7"),
        (0.00001, "0.00001"),
        (-2.5, "-2.5"),
        (12345678901234567890, "12345678901234567890"),
        ("\ud800", '"\ufffd"'),
    ],
)
def test_encode(value: Any, text: str) -> None:
    assert encode(value) == (text + "\n").encode()


def test_maps_are_sorted_and_structs_are_not() -> None:
    assert encode({"b": {"d": 1, "c": 2}, "a": 3}, sort_keys=True) == b'{"a":3,"b":{"c":2,"d":1}}\n'
    assert encode({"b": 1, "a": 2}) == b'{"b":1,"a":2}\n'


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), {1: float("nan")}])
def test_what_json_cannot_write(value: Any) -> None:
    with pytest.raises(ValueError):
        encode(value)


texts = st.text(st.characters(codec="utf-8"))
leaves = st.none() | st.booleans() | st.integers() | st.floats(-(2**53), 2**53) | texts


@given(st.recursive(leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4)))
def test_it_is_json_of_the_same_value(value: Any) -> None:
    assert json.loads(encode(value)) == value


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.9, "0.9"),
        (42, "42"),
        (4096, "4096"),
        (999999, "999999"),
        (1000000, "1e+06"),
        (1048576, "1.048576e+06"),
        (-1048576, "-1.048576e+06"),
        (0.0001, "0.0001"),
        (0.00001, "1e-05"),
        (1e100, "1e+100"),
        (0.0, "0"),
        (-1, "-1"),
        (True, "true"),
        ("bar", '"bar"'),
        ('a"b\\\n\t\x01é\u200b', '"a\\"b\\\\\\n\\t\\x01é\\u200b"'),
        (None, "<nil>"),
    ],
)
def test_go_syntax(value: Any, text: str) -> None:
    assert go_syntax(value) == text
