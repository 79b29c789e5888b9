"""Checked reading of what GGUF metadata says of a tokenizer, under tokenizer.ggml.*."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from appliance.errors import NotGGUF

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6


@dataclass(frozen=True, slots=True)
class Entries:
    """The metadata with its two lists checked: every token's text, all different, and its type."""

    metadata: Mapping[str, Any]
    tokens: list[str]
    types: list[int]

    @classmethod
    def read(cls, metadata: Mapping[str, Any]) -> Self:
        """Raises NotGGUF for lists that are missing or contradict each other."""
        tokens = required(metadata, "tokens")
        if not tokens:
            raise NotGGUF("a damaged model: metadata tokenizer.ggml.tokens is missing")
        if not all(isinstance(token, str) for token in tokens):
            raise NotGGUF("a damaged model: tokenizer.ggml.tokens are not text")
        named = [token or f"[EMPTY_{index}]" for index, token in enumerate(tokens)]
        refuse_twice(named)
        types = values(metadata, "token_type", len(tokens)) or [NORMAL] * len(tokens)
        return cls(metadata, named, types)

    @property
    def size(self) -> int:
        return len(self.tokens)

    def vocabulary(self) -> dict[str, int]:
        """Every token's id."""
        return {token: index for index, token in enumerate(self.tokens)}

    def of_type(self, kind: int) -> list[int]:
        """The ids of the tokens of a type."""
        return [index for index, found in enumerate(self.types) if found == kind]

    def flag(self, name: str, default: bool) -> bool:
        """A yes or no; raises NotGGUF for anything else."""
        value = self.metadata.get(f"tokenizer.ggml.{name}", default)
        if not isinstance(value, bool):
            raise NotGGUF(f"a damaged model: tokenizer.ggml.{name} is {str(value)[:40]!r}, not true or false")
        return value

    def token_id(self, name: str, default: int | None = None) -> int | None:
        """The id in `name`_token_id. A default that the vocabulary is too small for is no token."""
        value = self.metadata.get(f"tokenizer.ggml.{name}_token_id")
        if value is None:
            return default if default is not None and default < self.size else None
        if type(value) is not int or not 0 <= value < self.size:
            raise NotGGUF(f"a damaged model: tokenizer.ggml.{name}_token_id is {str(value)[:40]}")
        return value

    def scores(self) -> list[float]:
        """Every token's score."""
        scores = required(self.metadata, "scores", self.size)
        if not all(isinstance(score, int | float) for score in scores):
            raise NotGGUF("a damaged model: tokenizer.ggml.scores are not numbers")
        return scores


def refuse_twice(tokens: list[str]) -> None:
    """Raise NotGGUF for a token that is there twice."""
    if len(set(tokens)) != len(tokens):
        raise NotGGUF("a damaged model: tokenizer.ggml.tokens has a token twice")


def values(metadata: Mapping[str, Any], name: str, size: int | None = None) -> list[Any] | None:
    """The list under a key, None if there is no such key; raises NotGGUF for another value or another length."""
    value = metadata.get(f"tokenizer.ggml.{name}")
    if value is None:
        return None
    if not isinstance(value, list) or (size is not None and len(value) != size):
        count = len(value) if isinstance(value, list) else "no"
        raise NotGGUF(f"a damaged model: tokenizer.ggml.{name} has {count} entries" + (f", not {size}" if size else ""))
    return value


def required(metadata: Mapping[str, Any], name: str, size: int | None = None) -> list[Any]:
    """The list under a key that must be there."""
    found = values(metadata, name, size)
    if found is None:
        raise NotGGUF(f"a damaged model: metadata tokenizer.ggml.{name} is missing")
    return found
