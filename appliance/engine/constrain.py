"""Structured output: which tokens may come next, so that an answer fits a JSON schema.

The grammar engine is llguidance. A schema is compiled once for a model and copied for every request; where the
grammar leaves no choice, tokens are forced and need no sampling, so several ride in one run.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import llguidance
import numpy as np
import numpy.typing as npt

from appliance.errors import InvalidRequest, ModelFileError, first_line
from appliance.prompt.tokenizer import Tokenizer

CACHED_SCHEMAS = 64
STYLE: Any = {
    # The separators most text has, so that they are forced; llguidance's own default is any white space.
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
    "lenient": False,  # a keyword that cannot be enforced is an error, whatever the schema says of itself
}


class Constraint:
    """One answer's way through a grammar. Belongs to one thread at a time."""

    active = True

    def __init__(self, matcher: llguidance.LLMatcher, vocab_size: int) -> None:
        self.matcher = matcher
        self._vocab_size = vocab_size
        self._bits = np.zeros((vocab_size + 31) // 32, np.int32)

    @property
    def finished(self) -> bool:
        """Whether nothing may follow but the end."""
        return bool(self.matcher.is_stopped())

    def mask(self) -> npt.NDArray[np.bool_]:
        """The tokens [V] that may come next. Raises InvalidRequest when the grammar outgrows its limits."""
        self.matcher.unsafe_compute_mask_ptr(self._bits.ctypes.data, self._bits.nbytes)
        self._check()
        bits = np.unpackbits(self._bits.view(np.uint8), bitorder="little")
        return bits[: self._vocab_size].view(np.bool_)

    def forced(self) -> list[int]:
        """The tokens that must come next, as far as they are certain."""
        return list(self.matcher.compute_ff_tokens())

    def reach(self, tokens: Sequence[int]) -> int:
        """How many of `tokens` may come next, one after the other."""
        return int(self.matcher.validate_tokens(list(tokens)))

    def accept(self, token: int) -> None:
        """Go on with `token`, which the mask allowed. Raises InvalidRequest when the grammar outgrows its limits."""
        self.matcher.consume_token(token)
        self._check()

    def end_within(self, left: int) -> None:
        """What a format asks for is cut where the tokens end, as Ollama cuts it."""

    def _check(self) -> None:
        if self.matcher.is_error():
            raise InvalidRequest(f"the format cannot be followed: {first_line(self.matcher.get_error())}")


class Words:
    """A tokenizer as llguidance's TokenizerWrapper asks for one.

    Given tokenizer.json instead, llguidance reads it again, which holds up every thread two to three times as long (5 s
    instead of 1.7 for a vocabulary of 262,144), and keeps another copy in memory.
    """

    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, eos: Sequence[int]) -> None:
        self.tokens, self.special_token_ids = tokenizer.vocabulary(vocab_size)
        self.eos_token_id = eos[0] if eos else None
        self._tokenizer = tokenizer

    def __call__(self, text: str | bytes) -> list[int]:
        """The tokens of a text; raises TypeError for bytes."""
        if isinstance(text, bytes):
            raise TypeError("a text, not bytes")
        return self._tokenizer.encode(text, add_bos=False)


class Grammars:
    """Compiles JSON schemas for one model's vocabulary. May be used from several threads."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, eos: Sequence[int]) -> None:
        """What llguidance makes of the tokenizer is made when the first schema comes."""
        self._source = tokenizer
        self.vocab_size = vocab_size
        self._eos = list(eos)
        self._tokenizer: llguidance.LLTokenizer | None = None
        self._compiled: OrderedDict[str, llguidance.LLMatcher] = OrderedDict()
        self._lock = threading.Lock()
        self._reading = threading.Lock()

    def constraint(self, schema: Mapping[str, Any]) -> Constraint:
        """A fresh constraint for `schema`.

        Raises InvalidRequest for a schema that is none or that uses a keyword we cannot enforce, by its name.
        """
        text = json.dumps(schema if mentions(schema, "allOf") else closed(schema))
        with self._lock:
            matcher = self._compiled.pop(text, None) or self._compile(text)
            self._compiled[text] = matcher
            if len(self._compiled) > CACHED_SCHEMAS:
                self._compiled.popitem(last=False)
            return Constraint(matcher.deep_copy(), self.vocab_size)

    def tokenizer(self) -> llguidance.LLTokenizer:
        """The vocabulary as grammars see it. Raises ModelFileError."""
        with self._reading:
            if self._tokenizer is None:
                words = Words(self._source, self.vocab_size, self._eos)
                wrapper = llguidance.TokenizerWrapper(words)
                try:
                    self._tokenizer = llguidance.LLTokenizer(wrapper, n_vocab=self.vocab_size, eos_token=self._eos)
                except ValueError as error:
                    text = first_line(error)
                    raise ModelFileError(f"structured output cannot use this tokenizer: {text}") from error
                words.tokens.clear()  # llguidance has its own, and the wrapper would keep these
            return self._tokenizer

    def _compile(self, schema: str) -> llguidance.LLMatcher:
        try:
            grammar = llguidance.LLMatcher.grammar_from_json_schema(schema, overrides=STYLE)
        except ValueError as error:
            raise InvalidRequest(f"invalid JSON schema in format: {first_line(error)}") from error
        matcher = llguidance.LLMatcher(self.tokenizer(), grammar, log_level=0)
        if matcher.is_error():
            raise InvalidRequest(f"invalid JSON schema in format: {first_line(matcher.get_error())}")
        return matcher


def closed(schema: Any) -> Any:
    """`schema` without properties that it does not name, wherever it leaves them open.

    JSON Schema allows them then; llama.cpp's grammars do not, and small models never stop inventing them.
    """
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    result = {
        key: {name: closed(each) for name, each in value.items()}
        if key in ("properties", "$defs", "definitions") and isinstance(value, Mapping)
        else closed(value)
        if key in ("items", "prefixItems", "additionalProperties", "anyOf", "oneOf")
        else value
        for key, value in schema.items()
    }
    if "properties" in schema and not schema.keys() & {"additionalProperties", "patternProperties", "anyOf", "oneOf"}:
        result["additionalProperties"] = False
    return result


def mentions(schema: Any, keyword: str) -> bool:
    """Whether `keyword` is a key anywhere in `schema`. Parts joined by allOf may not be closed one by one."""
    if isinstance(schema, Mapping):
        return keyword in schema or any(mentions(value, keyword) for value in schema.values())
    return isinstance(schema, list) and any(mentions(item, keyword) for item in schema)
