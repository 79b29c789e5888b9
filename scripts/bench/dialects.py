"""How the servers are spoken to: the Ollama API and llama-server's OpenAI-like one. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

Message = dict[str, str]
Usage = tuple[int, int, float]
"""Tokens of the prompt, tokens of the answer, seconds spent on the part of the prompt that was not cached."""
MODEL = "bench"


@dataclass(frozen=True, slots=True)
class Ask:
    """A chat request that is answered with at most `tokens` tokens, as a stream; `schema` constrains the answer."""

    messages: tuple[Message, ...]
    tokens: int
    seed: int | None = None
    """None: nothing is said. Our server guesses no tokens ahead for a request that names a seed."""
    temperature: float = 0.0
    schema: dict[str, Any] | None = None

    @property
    def sampling(self) -> dict[str, float]:
        """What both dialects call by the same name; Ollama's defaults, except for the repeat penalty."""
        chain = {"temperature": self.temperature, "top_k": 40, "top_p": 0.9, "min_p": 0.0, "repeat_penalty": 1.0}
        return chain if self.seed is None else chain | {"seed": self.seed}


def user(text: str) -> Message:
    """What a user says."""
    return {"role": "user", "content": text}


def system(text: str) -> Message:
    """A system prompt."""
    return {"role": "system", "content": text}


def assistant(text: str) -> Message:
    """What the model said."""
    return {"role": "assistant", "content": text}


class Dialect(Protocol):
    """The chat endpoint of a server."""

    path: str

    def body(self, ask: Ask) -> dict[str, Any]:
        """The request."""

    def text(self, event: dict[str, Any]) -> str:
        """The text that an event of the answer brings."""

    def usage(self, event: dict[str, Any]) -> Usage | None:
        """What the last event counts; None for the others."""


class Ollama:
    """POST /api/chat."""

    path = "/api/chat"

    def body(self, ask: Ask) -> dict[str, Any]:
        """See Dialect.body."""
        body = {
            "model": MODEL,
            "messages": list(ask.messages),
            "stream": True,
            "options": {**ask.sampling, "num_predict": ask.tokens},
        }
        return body | ({"format": ask.schema} if ask.schema else {})

    def text(self, event: dict[str, Any]) -> str:
        """See Dialect.text."""
        return str(event.get("message", {}).get("content") or "")

    def usage(self, event: dict[str, Any]) -> Usage | None:
        """See Dialect.usage."""
        if not event.get("done"):
            return None
        return event["prompt_eval_count"], event["eval_count"], event.get("prompt_eval_duration", 0) / 1e9


class OpenAI:
    """POST /v1/chat/completions of llama-server, which also tells its timings."""

    path = "/v1/chat/completions"

    def body(self, ask: Ask) -> dict[str, Any]:
        """See Dialect.body."""
        body: dict[str, Any] = {
            "model": MODEL,
            "messages": list(ask.messages),
            "stream": True,
            "stream_options": {"include_usage": True},
            "max_tokens": ask.tokens,
            **ask.sampling,
        }
        if ask.schema:
            body["response_format"] = {"type": "json_schema", "json_schema": {"name": "document", "schema": ask.schema}}
        return body

    def text(self, event: dict[str, Any]) -> str:
        """See Dialect.text."""
        choices = event.get("choices") or [{}]
        return str(choices[0].get("delta", {}).get("content") or "")

    def usage(self, event: dict[str, Any]) -> Usage | None:
        """See Dialect.usage."""
        counts = event.get("usage")
        if not counts:
            return None
        timings = event.get("timings") or {}
        return counts["prompt_tokens"], counts["completion_tokens"], timings.get("prompt_ms", 0.0) / 1e3
