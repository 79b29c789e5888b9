"""Options: merging, types, ranges."""

from __future__ import annotations

from typing import Any

import pytest

from appliance.core import SamplingParams
from appliance.errors import InvalidOption, InvalidRequest
from appliance.options import Options, context_tokens, merge


def merged(requested: dict[str, Any], parameters: dict[str, Any] | None = None) -> Options:
    return merge(parameters or {}, requested, logprobs=False, top=0)


def test_defaults_are_ollamas() -> None:
    assert merged({}).sampling == SamplingParams()


@pytest.mark.spec(71)
def test_request_wins_over_model_and_a_list_replaces_a_list() -> None:
    options = merged({"temperature": 0.5, "stop": ["b"]}, {"temperature": 1, "top_k": 7, "stop": ["a", "c"]})
    assert (options.sampling.temperature, options.sampling.top_k, options.sampling.stop) == (0.5, 7, ("b",))


def test_unknown_and_null_options_are_skipped() -> None:
    assert merged({"mirostat": 2, "no_such": "x", "temperature": None, "recipe": "q4"}) == merged({})


@pytest.mark.spec(91)
@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("num_ctx", "8", 'option "num_ctx" must be of type integer'),
        ("num_ctx", True, 'option "num_ctx" must be of type integer'),
        ("seed", float("inf"), 'option "seed" must be of type integer'),
        ("temperature", "hot", 'option "temperature" must be of type float32'),
        ("temperature", 1e39, 'option "temperature" must be of type float32'),
        ("use_mmap", 1, 'option "use_mmap" must be of type boolean'),
        ("stop", "x", 'option "stop" must be of type array'),
        ("stop", [1], 'option "stop" must be of an array of strings'),
    ],
)
def test_wrong_types_are_named(name: str, value: Any, text: str) -> None:
    with pytest.raises(InvalidOption) as caught:
        merged({name: value})
    assert str(caught.value) == text


@pytest.mark.parametrize("options", [{"repeat_penalty": 0}, {"repeat_penalty": -1}, {"presence_penalty": 1e30}])
def test_values_that_break_the_arithmetic_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match="must be"):
        merged(options)


def test_floats_for_integers_are_cut_toward_zero() -> None:
    assert merged({"top_k": 3.9, "num_predict": -1.9}).sampling.top_k == 3
    assert merged({"num_predict": -1.9}).sampling.num_predict == -1


@pytest.mark.spec(71)
@pytest.mark.parametrize(("wanted", "expected"), [(None, 4096), (0, 4), (-5, 4), (100, 100), (10**9, 8192)])
def test_context_is_bounded_by_what_the_model_was_trained_for(wanted: int | None, expected: int) -> None:
    assert context_tokens(wanted, default=4096, trained=8192) == expected
