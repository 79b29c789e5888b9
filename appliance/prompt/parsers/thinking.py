"""Thoughts of models whose template says how they are marked, and what these marks are."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum, auto
from functools import lru_cache

from appliance.prompt.gotemplate import GoTemplate
from appliance.prompt.gotemplate.nodes import Action, Block, Branch, Text, names_in
from appliance.prompt.parsers.base import Expected, Parsed
from appliance.prompt.parsers.spans import Tags, cut


class State(Enum):
    """Where in the output the parser is."""

    BEFORE = auto()
    OPENED = auto()  # nothing of the thoughts has come
    THOUGHTS = auto()
    CLOSED = auto()  # nothing of the answer has come
    ANSWER = auto()


class ThinkingParser:
    """Thoughts between two tags in front of the answer (spec 4.5); if other text comes first there are none.

    Space before the opening tag and directly behind both is dropped.
    """

    def __init__(self, tags: Tags, expected: Expected) -> None:
        self._tags = tags
        self._state = State.OPENED if tags.open_at_end(expected.prompt) else State.BEFORE
        self._held = ""
        self._fed = 0
        self._answer_at = -1

    @property
    def markup(self) -> tuple[str, ...]:
        """See OutputParser."""
        return (self._tags.opening, self._tags.closing)

    def feed(self, text: str) -> Parsed:
        """See OutputParser."""
        self._held += text
        self._fed += len(text)
        out = Parsed()
        while self._held:
            state = self._state
            out += self._step()
            if self._state is state:
                break
        return out

    def finish(self) -> Parsed:
        """See OutputParser."""
        held, self._held = self._held, ""
        if self._state is State.THOUGHTS:
            return Parsed(thinking=held)
        return Parsed(held if self._state in (State.BEFORE, State.ANSWER) else "")

    def opening(self, output: str) -> str:
        """See OutputParser."""
        if self._answer_at >= 0:
            return output[: self._answer_at]
        if self._state in (State.OPENED, State.THOUGHTS):
            return f"{output.rstrip()}\n{self._tags.closing}\n\n"
        return output

    def _step(self) -> Parsed:
        match self._state:
            case State.BEFORE:
                self._look_for_opening()
            case State.OPENED | State.CLOSED:
                self._held = self._held.lstrip()
                if self._held:
                    self._state = State.THOUGHTS if self._state is State.OPENED else State.ANSWER
            case State.THOUGHTS:
                before, marker, self._held = cut(self._held, (self._tags.closing,))
                if marker:
                    self._state = State.CLOSED
                return Parsed(thinking=before)
            case State.ANSWER:
                if self._answer_at < 0:
                    self._answer_at = self._fed - len(self._held)
                text, self._held = self._held, ""
                return Parsed(text)
        return Parsed()

    def _look_for_opening(self) -> None:
        text, opening = self._held.lstrip(), self._tags.opening
        if text.startswith(opening):
            self._held, self._state = text[len(opening) :], State.OPENED
        elif not opening.startswith(text):
            self._state = State.ANSWER


@lru_cache(32)
def thinking_tags(template: GoTemplate) -> Tags | None:
    """The tags of a Go template: the first and the last text of the block around a message's `.Thinking`."""
    for block in template.blocks:
        for message in _ranges(block):
            for around in _around_thinking(message.body):
                texts = [text for node in around if isinstance(node, Text) and (text := node.text.strip())]
                if len(texts) > 1:
                    return Tags(texts[0], texts[-1])
    return None


def _ranges(block: Block) -> Iterator[Branch]:
    """The ranges over messages within a block."""
    for node in block:
        if isinstance(node, Branch):
            if node.kind == "range" and "Messages" in names_in((Action(node.pipe),)):
                yield node
            yield from _ranges(node.body)
            yield from _ranges(node.otherwise)


def _around_thinking(block: Block) -> Iterator[Block]:
    """The innermost blocks that write `.Thinking`."""
    for node in block:
        if isinstance(node, Branch):
            yield from _around_thinking(node.body)
            yield from _around_thinking(node.otherwise)
        elif isinstance(node, Action) and "Thinking" in names_in((node,)):
            yield block
