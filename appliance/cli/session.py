"""One conversation with a model: its state, and the requests that `run` makes of it."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any

from appliance.cli.answer import Answer, WordWrap, print_events, timings
from appliance.cli.client import Client

MIN_WRAP_COLUMNS = 10


@dataclass
class Session:
    """What `run`'s flags and /set have chosen, and what has been said so far (wire form messages)."""

    client: Client
    model: str
    system: str = ""
    format: Any = None
    think: bool | str | None = None
    keep_alive_s: float | None = None
    options: dict[str, Any] = field(default_factory=dict)
    messages: list[dict[str, str]] = field(default_factory=list)
    word_wrap: bool = True
    hide_thinking: bool = False
    verbose: bool = False

    def show(self) -> dict[str, Any]:
        """The /api/show answer of the model."""
        return self.client.call("POST", "/api/show", {"model": self.model})

    def load(self) -> None:
        """Have the model in memory before the first question."""
        self.client.call("POST", "/api/generate", self._request(stream=False))

    def generate(self, prompt: str) -> None:
        """Answer one prompt outside of any conversation, on stdout."""
        body = self._request(prompt=prompt)
        if self.system:
            body["system"] = self.system
        with self._answer() as answer, closing(self.client.stream("/api/generate", body)) as events:
            last = print_events(events, answer, lambda event: event)
        self._print_timings(last)

    def embed(self, text: str, truncate: bool | None, dimensions: int | None) -> list[float]:
        """The vector of a text."""
        optional = {"truncate": truncate, "dimensions": dimensions, "keep_alive": self.keep_alive_s}
        given = {key: value for key, value in optional.items() if value is not None}
        answer = self.client.call("POST", "/api/embed", {"model": self.model, "input": text, **given})
        vector: list[float] = answer["embeddings"][0]
        return vector

    def chat(self, text: str) -> None:
        """Answer `text` as the next turn, on stdout. An answer cut by Ctrl+C stays, with what it got to say.

        After an error the turn is taken back.
        """
        self.messages.append({"role": "user", "content": text})
        last: Mapping[str, Any] = {}
        try:
            system = [{"role": "system", "content": self.system}] if self.system else []
            body = self._request(messages=[*system, *self.messages])
            with self._answer() as answer, closing(self.client.stream("/api/chat", body)) as events:
                last = print_events(events, answer, lambda event: event.get("message", {}))
        except KeyboardInterrupt:
            pass
        except Exception:
            self.messages.pop()
            raise
        self.messages.append({"role": "assistant", "content": answer.content})
        self._print_timings(last)

    def save(self, name: str) -> None:
        """Keep model, system message, parameters and conversation as a model called `name`."""
        body: dict[str, Any] = {"model": name, "from": self.model, "stream": False}
        if self.system:
            body["system"] = self.system
        if self.options:
            body["parameters"] = self.options
        if self.messages:
            body["messages"] = self.messages
        self.client.call("POST", "/api/create", body)

    def _request(self, **fields: Any) -> dict[str, Any]:
        optional = {
            "format": self.format,
            "think": self.think,
            "keep_alive": self.keep_alive_s,
            "options": self.options or None,
        }
        return {
            "model": self.model,
            **fields,
            **{key: value for key, value in optional.items() if value is not None},
        }

    @contextmanager
    def _answer(self) -> Iterator[Answer]:
        """A printer for one answer, which ends its line whatever happens."""
        columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
        wrap = WordWrap(columns) if self.word_wrap and columns >= MIN_WRAP_COLUMNS else None
        answer = Answer(wrap=wrap, hide_thinking=self.hide_thinking)
        try:
            yield answer
        finally:
            sys.stdout.write("\n\n" if answer.content or answer.thinking else "\n")
            sys.stdout.flush()

    def _print_timings(self, last: Mapping[str, Any]) -> None:
        if self.verbose and last:
            sys.stderr.write(timings(last))
