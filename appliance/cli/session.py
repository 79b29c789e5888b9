"""One conversation with a model: its state, and the requests that `run` makes of it."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from appliance.cli.answer import Answer, WordWrap, print_events, timings
from appliance.cli.client import Client
from appliance.errors import ApplianceError

MIN_WRAP_COLUMNS = 10
THINK_LEVELS = ("true", "false", "high", "medium", "low", "max")


def think_value(text: str) -> bool | str:
    """How a model is to think, from what a user writes. Raises ApplianceError."""
    if text not in THINK_LEVELS:
        raise ApplianceError(f'invalid think value: "{text}" (must be {", ".join(THINK_LEVELS)})')
    return text == "true" if text in ("true", "false") else text


@dataclass
class Session:
    """What `run`'s flags and /set have chosen, and what has been said so far (wire form messages)."""

    client: Client
    model: str
    capabilities: tuple[str, ...] = ()
    system: str = ""
    format: Any = None
    think: bool | str | None = None
    keep_alive_s: float | None = None
    options: dict[str, Any] = field(default_factory=dict)
    messages: list[dict[str, Any]] = field(default_factory=list)
    word_wrap: bool = True
    hide_thinking: bool = False
    verbose: bool = False

    def show(self) -> dict[str, Any]:
        """The /api/show answer of the model."""
        return self.client.call("POST", "/api/show", {"model": self.model})

    def load(self) -> None:
        """Have the model in memory before the first question."""
        self.client.call("POST", "/api/generate", self._request(stream=False))

    def switch(self, model: str) -> None:
        """Go on with another model, and its conversation. After an error everything is as it was."""
        other = replace(self, model=model)
        facts = other.show()
        other.load()
        self.model = model
        self.begin(facts)

    def begin(self, facts: Mapping[str, Any]) -> None:
        """Take over, from the model's /api/show answer, what it can do and the conversation it comes with."""
        self.capabilities = tuple(facts.get("capabilities") or ())
        self.messages = [dict(message) for message in facts.get("messages") or ()]

    def replay(self) -> None:
        """Print the conversation so far."""
        for message in self.messages:
            if message["role"] == "user":
                print(f">>> {message['content']}")
            elif message["role"] == "assistant":
                with self._answer() as answer:
                    answer.push(message)

    def set_think(self, level: str) -> None:
        """Switch thinking on, at a level if there is one. Raises ApplianceError for a level or a model without it."""
        think = think_value(level) if level else True
        if think and "thinking" not in self.capabilities:
            raise ApplianceError(f'"{self.model}" does not support thinking')
        self.think = think

    def generate(self, prompt: str) -> None:
        """Answer one prompt outside of any conversation, on stdout."""
        prompt, images = self._images(prompt)
        body = self._request(prompt=prompt, **images)
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
        text, images = self._images(text)
        self.messages.append({"role": "user", "content": text, **images})
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
        said = {"thinking": answer.thinking, "tool_calls": answer.tool_calls}
        reply = {"role": "assistant", "content": answer.content}
        self.messages.append(reply | {key: value for key, value in said.items() if value})
        self._print_timings(last)

    def save(self, name: str) -> None:
        """Keep model, system message, parameters and conversation as a model called `name`."""
        body: dict[str, Any] = {"model": name, "from": self.model, "stream": False}
        if self.system:
            body["system"] = self.system
        if self.options:
            body["parameters"] = self.options
        if self.messages:
            body["messages"] = [{key: message[key] for key in ("role", "content")} for message in self.messages]
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
        terminal = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
        columns = shutil.get_terminal_size().columns if terminal else 0
        wrap = WordWrap(columns) if self.word_wrap and columns >= MIN_WRAP_COLUMNS else None
        color = terminal and not os.environ.get("NO_COLOR")
        answer = Answer(wrap=wrap, hide_thinking=self.hide_thinking, color=color)
        try:
            yield answer
        finally:
            answer.close()

    def _images(self, text: str) -> tuple[str, dict[str, list[str]]]:
        """The prompt without the paths of images in it, and the field that has these; only for models that see."""
        if "vision" not in self.capabilities:
            return text, {}
        from appliance.cli.images import take_images

        text, images = take_images(text)
        for path in images:
            print(f"Added image '{path}'", file=sys.stderr)
        return text, {"images": list(images.values())} if images else {}

    def _print_timings(self, last: Mapping[str, Any]) -> None:
        if self.verbose and last:
            sys.stderr.write(timings(last))
