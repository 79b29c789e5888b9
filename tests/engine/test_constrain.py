"""Structured output: every answer fits its schema, whatever the model would rather say."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import jsonschema
import llguidance
import numpy as np
import pytest

from appliance.bundle import TOKENIZER, read_description
from appliance.core import Chunk, DoneReason, Request, SamplingParams
from appliance.engine.constrain import Grammars, closed
from appliance.errors import InvalidRequest, ModelFileError
from appliance.prompt.tokenizer import Tokenizer
from tests.engine.tiny import Model
from tests.tiny_model import write_tiny_bundle

SCHEMAS = 500
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
    },
    "required": ["name", "age"],
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    model = Model(tmp_path_factory.mktemp("bundle") / "tiny")
    yield model
    model.engine.close()


@pytest.mark.parametrize(
    "sampling",
    [
        {"temperature": 0.0},
        {"temperature": 2.0, "top_k": 0, "top_p": 1.0},
        {"top_k": 1},
        {"typical_p": 0.2, "min_p": 0.3},
        {"repeat_penalty": 100.0, "presence_penalty": 50.0, "repeat_last_n": -1},
        {"logprobs": True, "top_logprobs": 3},
    ],
)
def test_an_answer_fits_whatever_the_sampling(model: Model, sampling: dict[str, Any]) -> None:
    for seed in range(5):
        jsonschema.validate(json.loads(model.text(PERSON, **{"seed": seed, **sampling})), PERSON)


def test_forced_tokens_are_not_sampled(model: Model) -> None:
    schema = {"const": {"hello": "the hello", "in": [1, 2, 3]}}
    runs_before = model.backend.run

    count = 0

    def counting(rows: Any) -> Any:
        nonlocal count
        count += 1
        return runs_before(rows)

    model.backend.run = counting  # type: ignore[method-assign]
    try:
        assert json.loads(model.text(schema)) == schema["const"]
    finally:
        model.backend.run = runs_before  # type: ignore[method-assign]
    assert count <= 2, "the whole answer is forced: it rides with the prompt"


def test_forced_tokens_count_and_respect_the_budget(model: Model) -> None:
    schema = {"const": {"hello": "the hello", "in": [1, 2, 3]}}
    whole = model.answer(schema)[-1].usage
    assert whole
    assert whole.generated_tokens >= 10
    cut = model.answer(schema, num_predict=5)
    assert cut[-1].done_reason is DoneReason.LENGTH
    assert cut[-1].usage
    assert cut[-1].usage.generated_tokens == 5


def test_every_token_has_a_logprob_when_they_are_asked_for(model: Model) -> None:
    chunks = model.answer(
        {"type": "array", "items": {"enum": ["hello", 7]}, "minItems": 4, "maxItems": 4}, logprobs=True
    )
    usage = chunks[-1].usage
    assert usage
    entries = [entry for chunk in chunks for entry in chunk.logprobs]
    assert len(entries) in (usage.generated_tokens, usage.generated_tokens - 1)
    assert "".join(entry.token for entry in entries) == "".join(chunk.text for chunk in chunks)


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"not": {"type": "string"}}, '"not"'),
        ({"type": "array", "uniqueItems": True}, '"uniqueItems"'),
        ({"type": "object", "if": {}, "x-guidance": {"lenient": True}}, '"if"'),
        ({"type": "nonsense"}, "nonsense"),
        ({"$ref": "http://127.0.0.1:1/schema"}, "127.0.0.1"),
        ({"type": "string", "pattern": "("}, "format"),
        ({"type": "integer", "minimum": 5, "maximum": 1}, "format"),
    ],
)
def test_what_cannot_be_enforced_is_refused_by_name(model: Model, schema: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        model.grammars.constraint(schema)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_properties_that_nobody_named_are_left_out_unless_asked_for() -> None:
    inner = {"type": "object", "properties": {"x": {"type": "integer"}}}
    schema = {"type": "object", "properties": {"a": inner, "properties": inner}, "$defs": {"d": inner}}
    result = closed(schema)
    assert result["additionalProperties"] is False
    assert result["properties"]["a"]["additionalProperties"] is False
    assert result["properties"]["properties"]["additionalProperties"] is False
    assert result["$defs"]["d"]["additionalProperties"] is False
    assert "additionalProperties" not in result["properties"]
    open_one = {"type": "object", "properties": {}, "additionalProperties": True}
    assert closed(open_one) == open_one


def test_a_compiled_schema_is_used_again(model: Model) -> None:
    model.grammars.constraint(PERSON)
    matcher = model.grammars._compiled[json.dumps(closed(PERSON))]
    first, second = model.grammars.constraint(PERSON), model.grammars.constraint(PERSON)
    first.accept(first.forced()[0])
    assert second.forced(), "copies do not share their state"
    assert model.grammars._compiled[json.dumps(closed(PERSON))] is matcher


def test_a_grammar_that_fails_ends_its_own_request_only(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = model.grammars.constraint(PERSON)

    def fail() -> None:
        raise InvalidRequest("the format cannot be followed: too large")

    monkeypatch.setattr(broken, "mask", fail)
    inbox: SimpleQueue[Chunk | Exception] = SimpleQueue()
    prompt = tuple(model.tokenizer.encode("hello", add_bos=True))
    model.engine.submit(Request(prompt, SamplingParams(), 512, constraint=broken), inbox.put)
    jsonschema.validate(json.loads(model.text(PERSON)), PERSON)
    events = [inbox.get(timeout=60)]
    while not isinstance(events[-1], Exception):
        events.append(inbox.get(timeout=60))
    assert isinstance(events[-1], InvalidRequest)
    assert model.engine.free_slots == 2


def test_the_thread_of_masks_ends_with_the_engine(tmp_path: Path) -> None:
    model = Model(tmp_path / "tiny")
    model.text(PERSON)
    masks = [thread for thread in threading.enumerate() if "masks" in thread.name]
    model.engine.close()
    assert any(not thread.is_alive() for thread in masks)


@pytest.mark.slow
def test_five_hundred_random_schemas(model: Model) -> None:
    dice = random.Random(7)
    for number in range(SCHEMAS):
        schema = random_schema(dice, depth=3)
        text = model.text(schema, seed=number, temperature=dice.choice([0.0, 1.0, 1.5]))
        jsonschema.validate(json.loads(text), schema)


def random_schema(dice: random.Random, depth: int) -> dict[str, Any]:
    """A schema whose shortest and longest answers are both short."""
    kinds = ["string", "integer", "number", "boolean", "null", "enum", "const"]
    kind = dice.choice(kinds + (["object", "array", "anyOf"] * 2 if depth else []))
    match kind:
        case "string":
            return {"type": "string", "minLength": dice.randrange(3), "maxLength": dice.randrange(3, 12)}
        case "integer":
            low = dice.randrange(-1000, 1000)
            return {"type": "integer", "minimum": low, "maximum": low + dice.randrange(500)}
        case "number":
            return {"type": "number", "minimum": -5, "maximum": dice.randrange(100)}
        case "boolean" | "null":
            return {"type": kind}
        case "enum":
            return {"enum": dice.sample([1, "hello", None, True, "in the", 2.5, "\u2028", {"a": []}], 3)}
        case "const":
            return {"const": dice.choice(["hello", 17, [1, 2], {"k": "é"}])}
        case "array":
            least = dice.randrange(3)
            items = random_schema(dice, depth - 1)
            return {"type": "array", "items": items, "minItems": least, "maxItems": least + dice.randrange(3)}
        case "anyOf":
            return {"anyOf": [random_schema(dice, depth - 1) for _ in range(dice.randrange(1, 4))]}
    names = dice.sample(["a", "b", "hello", "the", "x y", "é", '"', "properties"], dice.randrange(1, 5))
    properties = {name: random_schema(dice, depth - 1) for name in names}
    required = dice.sample(names, dice.randrange(len(names) + 1))
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


@pytest.fixture(params=["tiny", pytest.param("real", marks=pytest.mark.slow)])
def any_bundle(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A bundle with a tokenizer."""
    if request.param == "real":
        folder: Path = request.getfixturevalue("exact_bundle")
        return folder
    write_tiny_bundle(tmp_path / "tiny")
    return tmp_path / "tiny"


def test_the_vocabulary_is_the_one_that_llguidance_would_read(any_bundle: Path) -> None:
    bundle = read_description(any_bundle)
    eos = list(bundle.eos_tokens)
    own = Grammars(Tokenizer.load(any_bundle, bundle), bundle.vocab_size, eos).tokenizer()
    text = (any_bundle / TOKENIZER).read_text(encoding="utf-8")
    theirs = llguidance.LLTokenizer(text, n_vocab=bundle.vocab_size, eos_token=eos)
    for text in ("Hello", " a <|im_start|>user", "naïve 日本 😀", "\n\n  x"):
        for special in (True, False):
            assert own.tokenize_str(text, parse_special=special) == theirs.tokenize_str(text, parse_special=special)
    for schema in ({}, {"type": "string"}, PERSON):
        grammar = llguidance.LLMatcher.grammar_from_json_schema(json.dumps(schema))
        pair = [llguidance.LLMatcher(each, grammar) for each in (own, theirs)]
        chosen = random.Random(1)
        for _ in range(20):
            masks = [np.frombuffer(each.compute_logit_bias(), np.uint8) for each in pair]
            assert (masks[0] == masks[1]).all()
            token = int(chosen.choice(np.flatnonzero(masks[0])))
            assert all(each.consume_token(token) for each in pair)
            if pair[0].is_stopped():
                break


def test_a_vocabulary_without_an_end_is_refused(model: Model) -> None:
    with pytest.raises(ModelFileError, match="structured output cannot use this tokenizer: eos_token"):
        Grammars(model.tokenizer, 267, ()).constraint({})
