"""Tool calls that fit their schemas, whatever the model would rather say; and all else as if there were no tools."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from typing import Any

import jsonschema
import pytest

from appliance.core import Chunk, DoneReason
from appliance.engine.calls import CallConstraint, CallGrammars, Watch
from appliance.engine.ending import Quotes
from appliance.prompt.parsers.base import Expected
from appliance.prompt.parsers.shape import CallShape
from appliance.prompt.parsers.tagged import TagParser
from tests.engine.tiny import Model
from tests.random_tools import random_tool

TAGGED = CallShape("<tool_call>", "", '{"name": "', '", "arguments": ', "}", in_object=True)
BARE = CallShape("", "", '{"name": "', '", "parameters": ', "}", in_object=True)
LISTED = CallShape("[TOOL_CALLS]", "[", '{"id": "id9sentin", "name": "', '", "arguments": ', "}", in_object=True)
OUTSIDE = CallShape("<function=", "", "", ">", "", in_object=False)
WEATHER = {"type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}}, "required": ["city"]}
FUNCTIONS = {"get_weather": WEATHER, "get_weather_later": {"type": "object", "properties": {"n": {"type": "integer"}}}}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    model = Model(tmp_path_factory.mktemp("bundle") / "tiny")
    yield model
    model.engine.close()


def calls_of(model: Model, shape: CallShape, functions: dict[str, Any], *, opened: bool = True) -> CallConstraint:
    prompt = model.tokenizer.encode("hello", add_bos=True)
    grammar = CallGrammars(model.grammars).compiled(shape, functions, {})
    watch = Watch(shape, list(functions))
    return CallConstraint(watch, model.tokenizer.stream(prompt), grammar, opened=opened)


def said(chunks: Sequence[Chunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


@pytest.mark.parametrize("shape", [TAGGED, LISTED, OUTSIDE], ids=["tagged", "listed", "outside"])
@pytest.mark.parametrize("sampling", [{}, {"temperature": 0.0}, {"logprobs": True}, {"temperature": 3.0, "top_k": 0}])
def test_a_call_that_the_prompt_began_fits(model: Model, shape: CallShape, sampling: dict[str, Any]) -> None:
    for seed in range(3):
        constraint = calls_of(model, shape, {"get_weather": WEATHER})
        parser = TagParser(shape.tag, ["get_weather"], opened=True)
        text = said(model.run("hello", constraint, **{"num_predict": 400, "seed": seed, **sampling}))
        (call, *_) = (parser.feed(text) + parser.finish()).tool_calls
        jsonschema.validate(dict(call.arguments), WEATHER)


def test_random_tools_get_arguments_that_fit(model: Model) -> None:
    for first in range(0, 60, 3):
        tools = [random_tool(seed) for seed in range(first, first + 3)]
        functions = Expected(tuple(tools)).functions
        constraint = calls_of(model, TAGGED, functions)
        parser = TagParser("<tool_call>", functions, opened=True)
        chunks = model.run("hello", constraint, seed=first, num_predict=400, repeat_penalty=1.3)
        (call, *_) = (parser.feed(said(chunks)) + parser.finish()).tool_calls
        jsonschema.validate(dict(call.arguments), functions[call.name])
        assert chunks[-1].usage.generated_tokens <= 400


LONG = {
    "type": "object",
    "properties": {
        "text": {"type": "string", "minLength": 20},
        "code": {"enum": ["first", "second"]},
        "numbers": {"type": "array", "items": {"type": "number", "minimum": 1000}, "minItems": 2},
        "inner": {"type": "object", "properties": {"kind": {"enum": ["one", "two"]}, "on": {"type": "boolean"}},
                  "required": ["kind", "on"]},
    },
    "required": ["text", "code", "numbers", "inner"],
}  # fmt: skip


@pytest.mark.parametrize("sampling", [{}, {"logprobs": True}, {"repeat_penalty": 1.5}])
@pytest.mark.parametrize("num_predict", [180, 260, 500])
def test_a_call_ends_within_the_tokens_that_are_left(model: Model, num_predict: int, sampling: dict[str, Any]) -> None:
    for seed in range(4):
        constraint = calls_of(model, TAGGED, {"f": LONG})
        parser = TagParser("<tool_call>", ["f"], opened=True)
        chunks = model.run("hello", constraint, seed=seed, num_predict=num_predict, **sampling)
        (call, *_) = (parser.feed(said(chunks)) + parser.finish()).tool_calls
        jsonschema.validate(dict(call.arguments), LONG)
        assert chunks[-1].usage.generated_tokens <= num_predict


def test_a_call_that_cannot_end_in_time_is_cut_as_any_answer(model: Model) -> None:
    chunks = model.run("hello", calls_of(model, TAGGED, {"f": LONG}), num_predict=40)
    assert chunks[-1].done_reason is DoneReason.LENGTH
    assert chunks[-1].usage.generated_tokens == 40


def test_what_is_inside_a_string() -> None:
    quotes = Quotes(b'{"a": "x')
    assert quotes.inside
    quotes.push(b'\\\\\\" } ')
    assert quotes.inside
    other = quotes.copy()
    other.push(b'"')
    assert (quotes.inside, other.inside) == (True, False)


@pytest.mark.parametrize("sampling", [{"temperature": 0.0}, {"seed": 5}, {"seed": 6, "logprobs": True}])
def test_an_answer_without_a_call_is_the_same_as_without_tools(model: Model, sampling: dict[str, Any]) -> None:
    for shape in (TAGGED, BARE, LISTED):
        constraint = calls_of(model, shape, FUNCTIONS, opened=False)
        plain = said(model.run("hello", None, num_predict=60, **sampling))
        assert said(model.run("hello", constraint, num_predict=60, **sampling)) == plain


class Text:
    """Tokens that are texts."""

    def __init__(self, *pieces: str) -> None:
        self._pieces = pieces

    def push(self, token: int) -> str:
        return self._pieces[token]


def active_after(shape: CallShape, *pieces: str, thoughts: tuple[str, str] | None = None, **more: Any) -> list[bool]:
    """Whether a call is under way after each piece, if it never ends."""
    grammar: Future[Any] = Future()
    grammar.set_result(Endless())
    constraint = CallConstraint(Watch(shape, list(FUNCTIONS), thoughts, **more), Text(*pieces), grammar)
    found = []
    for token in range(len(pieces)):
        constraint.accept(token)
        found.append(constraint.active)
    return found


class Endless:
    """A grammar that takes everything."""

    finished = False
    endings = None

    def follow(self, _: str) -> Endless:
        return self

    def accept(self, _: int) -> None:
        pass


def test_behind_a_call_that_the_prompt_began_others_are_noticed_without_a_tag() -> None:
    grammar: Future[Any] = Future()
    grammar.set_result(Endless())
    pieces = ["{}", "\n# So\n{", '"name": "get_weather', '"', ","]
    constraint = CallConstraint(Watch(TAGGED, list(FUNCTIONS)), Text(*pieces), grammar, opened=True)
    constraint.accept(0)
    constraint._call = None  # the first call is over
    found = []
    for token in range(1, len(pieces)):
        constraint.accept(token)
        found.append(constraint.active)
    assert found == [False, False, True, True]


def test_a_token_that_comes_over_and_over_ends_the_call(model: Model) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "number"}}, "required": ["n"]}
    constraint = calls_of(model, TAGGED, {"f": schema})
    for token in model.grammars.tokenizer().tokenize_str('{"name": "f", "arguments": {"n": 1'):
        constraint.accept(token)
    (one,) = model.grammars.tokenizer().tokenize_str("1")
    for _ in range(40):
        constraint.end_within(10**6)
        if constraint.forced():
            break
        constraint.accept(one)
    assert model.tokenizer.decode(constraint.forced()).rstrip() == "}}"


THINK = ("<think>", "</think>")


@pytest.mark.parametrize(
    ("shape", "pieces", "more", "expected"),
    [
        (TAGGED, ["Well <tool", "_call", "> {"], {}, [False, False, True]),
        (TAGGED, ["<tool_cal", "<tool_call>"], {}, [False, True]),
        (TAGGED, ['{"name": "get_weather"', ', "arguments": {'], {}, [False, False]),
        (BARE, [" \n{", '"name": "get_we', 'ather"', ","], {}, [False, False, True, True]),
        (BARE, ['[{"name" :\n"get_weather_later"'], {}, [True]),
        (BARE, ['{"name": "Ada"', ', "of": {"name": "get_weather"'], {}, [False, False]),
        (BARE, ["So: ", '{"name": "get_weather"'], {}, [False, False]),
        (BARE, ['{"name": "get_weatherman"'], {}, [False]),
        (LISTED, ["[TOOL_CALLS]"], {}, [True]),
        (OUTSIDE, ["<function", "=get"], {}, [False, True]),
        (TAGGED, ["<thi", "nk>a <tool_call> b", "</th", "ink><tool", "_call>"], {"thoughts": THINK},
         [False, False, False, False, True]),
        (TAGGED, ["a <tool_call>", "</think>", "<tool_call>"], {"thoughts": THINK, "thinking": True},
         [False, False, True]),
        (TAGGED, ["no ", "<think><tool_call>"], {"thoughts": THINK}, [False, True]),
        (BARE, ["<think>hm</think>\n\n", '{"name": "get_weather"'], {"thoughts": THINK}, [False, True]),
    ],
)  # fmt: skip
def test_where_a_call_begins(shape: CallShape, pieces: list[str], more: dict[str, Any], expected: list[bool]) -> None:
    assert active_after(shape, *pieces, **more) == expected


def follow(model: Model, shape: CallShape, text: str, functions: dict[str, Any]) -> int:
    """How many characters of `text` the grammar of a call lets pass."""
    constraint = CallGrammars(model.grammars).compiled(shape, functions, {}).result().follow("")
    assert constraint
    tokens = [token for character in text for token in model.tokenizer.encode(character, add_bos=False)]
    return constraint.reach(tokens)


@pytest.mark.parametrize(
    ("shape", "text"),
    [
        (TAGGED, '\n{"name": "get_weather", "arguments": {"city": "Rome"}}'),
        (TAGGED, '{"name":"get_weather","arguments":{"city":"Rome"}}'),
        (TAGGED, '{\n  "name": "get_weather_later",\n  "arguments": {\n    "n": 3\n  }\n}'),
        (TAGGED, '{"name": "get_weather_later", "arguments": {}}'),
        (BARE, '{"name": "get_weather", "parameters": {"city": "Rome"}}'),
        (LISTED, ' [{"id": "a1B2c3D4e", "name": "get_weather", "arguments": {"city": "Rome"}}'),
        (LISTED, '{"id": "0", "name": "get_weather", "arguments": {"city": "Rome"}}'),
        (OUTSIDE, 'get_weather_later>{"n": -1}'),
    ],
)
def test_what_the_grammar_lets_pass(model: Model, shape: CallShape, text: str) -> None:
    assert follow(model, shape, text, FUNCTIONS) == len(text)
    assert follow(model, shape, text + " ", FUNCTIONS) == len(text), "a whole call ends"


@pytest.mark.parametrize(
    ("text", "passes"),
    [
        ('{"name": "rm', '{"name": "'),
        ('{"name": "get_weather", "arguments": {"city": "Oslo"}}', '{"name": "get_weather", "arguments": {"city": "'),
        ('{"name": "get_weather", "arguments": {}}', '{"name": "get_weather", "arguments": {'),
        ("Let me", ""),
    ],
)
def test_what_the_grammar_stops(model: Model, text: str, passes: str) -> None:
    assert follow(model, TAGGED, text, FUNCTIONS) == len(passes)


def test_a_schema_that_cannot_be_enforced_allows_any_object(model: Model, caplog: pytest.LogCaptureFixture) -> None:
    functions = {"odd": {"type": "object", "properties": {"x": {"items": {"uniqueItems": True}}}}}
    with caplog.at_level(logging.WARNING):
        text = '{"name": "odd", "arguments": {"y": [1, 1]}}'
        assert follow(model, TAGGED, text, functions) == len(text)
    assert "'odd'" in caplog.text
    assert "uniqueItems" in caplog.text


def test_names_and_marks_are_spelled_as_they_are(model: Model) -> None:
    name = 'a"b\\c.é:{1}'
    text = json.dumps({"name": name, "arguments": {}}, ensure_ascii=False)
    shape = CallShape("<|call|>", "", '{"name": "', '", "arguments": ', "}", in_object=True)
    grammar = CallGrammars(model.grammars).compiled(shape, {name: {}}, {}).result()
    assert (constraint := grammar.follow(text[:-1]))
    assert constraint.reach(model.tokenizer.encode("}", add_bos=False)) == 1
    assert grammar.follow("{no}") is None


def test_control_tokens_of_a_shape_are_tokens_in_the_grammar(model: Model) -> None:
    control = model.tokenizer.marks(["<|im_start|>"])
    shape = CallShape("<|call|>", "", "to=", "<|im_start|>json", "", in_object=False)
    constraint = CallGrammars(model.grammars).compiled(shape, {"f": {}}, control).result().follow("to=f")
    assert constraint
    assert constraint.reach(model.tokenizer.encode("<|im_start|>json{}", add_bos=False)) == 7


def test_every_further_call_is_noticed() -> None:
    text = 'Hm. <tool_call>X</tool_call> <tool_call>Y</tool_call>, {"name": "get_weather", Z'
    watch = Watch(TAGGED, list(FUNCTIONS))
    begun = [behind for character in text if (behind := watch.push(character)) is not None]
    assert begun == ["", "", '{"name": "get_weather"']
