"""The parser that most families share: thoughts and calls between markers, everything else is the answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto

from appliance.errors import OutputError
from appliance.prompt.parsers.base import Expected, Parsed, ToolCall
from appliance.prompt.parsers.values import Schema, Unfinished

Functions = dict[str, Schema]
Decode = Callable[[str, Functions], Sequence[ToolCall]]
"""The calls in what stands between the markers. Raises OutputError, Unfinished."""
Take = Callable[[str, Functions], tuple[Sequence[ToolCall], int] | None]
"""The calls that a text begins with and how many characters they are, None while more is needed. Raises OutputError."""


@dataclass(frozen=True, slots=True)
class Tags:
    """What thoughts stand between. `anywhere`: not only in front of the answer; `title`: how they begin at times."""

    opening: str
    closing: str
    anywhere: bool = False
    title: str = ""

    def open_at_end(self, prompt: str) -> bool:
        """Whether the output that follows `prompt` begins inside of thoughts."""
        end = prompt.rstrip()
        return end.endswith(self.opening) or (bool(self.title) and end.endswith(self.opening + self.title.rstrip()))


@dataclass(frozen=True, slots=True)
class Calls:
    """How calls are written: the marker before them, what reads them, the marker behind them, and those within.

    `end_thoughts`: models forget to close their thoughts before they call; `bare`: how a call itself begins, of models
    that forget the marker before it.
    """

    opening: str
    take: Take
    closing: str = ""
    inner: Sequence[str] = ()
    end_thoughts: bool = False
    bare: str = ""


def between(
    opening: str, closing: str, decode: Decode, *, inner: Sequence[str] = (), end_thoughts: bool = False
) -> Calls:
    """Calls between two markers; a closing marker within a JSON string does not close."""

    def take(text: str, functions: Functions) -> tuple[Sequence[ToolCall], int] | None:
        end = text.find(closing)
        while end >= 0:
            try:
                return decode(text[:end], functions), end + len(closing)
            except Unfinished:
                end = text.find(closing, end + 1)
        return None

    return Calls(opening, take, closing, inner, end_thoughts)


class State(Enum):
    """Where in the output a parser is."""

    ANSWER = auto()
    THOUGHTS = auto()
    CALLS = auto()


class Spans:
    """Thoughts between `thoughts`, calls as `calls` has them, `dropped` markers nowhere.

    Space that touches a marker belongs to it, except between two pieces of the answer. Thoughts are not returned if
    the request wants none. Without tools in the request nothing is a call.
    """

    def __init__(
        self,
        expected: Expected,
        *,
        thoughts: Tags | None = None,
        calls: Calls | None = None,
        dropped: Sequence[str] = (),
    ) -> None:
        self._thoughts = thoughts
        self._calls = calls if expected.tools else None
        self._functions = expected.functions
        self._dropped = (*dropped, self._calls.closing) if self._calls and self._calls.bare else tuple(dropped)
        self._opened = ""  # the marker before the call that is being read
        self._silent = expected.think is False
        opened = thoughts is not None and thoughts.open_at_end(expected.prompt)
        self._state = State.THOUGHTS if opened else State.ANSWER
        self._fresh = opened  # nothing of these thoughts has come yet
        self._held = ""  # always the end of all that was fed
        self._fed = 0
        self._space = ""  # behind the answer so far: what follows decides
        self._pause = ""  # the same behind thoughts
        self._answer_at = -1  # where in the output the answer begins; -1: nothing of it has come
        self._after_marker = False
        self._out = Parsed()

    @property
    def markup(self) -> tuple[str, ...]:
        """See OutputParser."""
        thoughts, calls = self._thoughts, self._calls
        return (
            *((thoughts.opening, thoughts.closing) if thoughts else ()),
            *((calls.opening, calls.closing, *calls.inner) if calls else ()),
            *self._dropped,
        )

    def feed(self, text: str) -> Parsed:
        """See OutputParser."""
        self._held += text
        self._fed += len(text)
        while self._held and self._step():
            pass
        return self._give()

    def finish(self) -> Parsed:
        """See OutputParser. Calls without an end are read if they can be, else they are part of the answer."""
        if self._state is State.CALLS:
            self._end_calls()
        elif self._state is State.THOUGHTS:
            self._think(self._held)
        else:
            self._say(self._held)
        if not self._after_marker:
            self._out += Parsed(self._space)
        self._held = self._space = ""
        return self._give()

    def opening(self, output: str) -> str:
        """See OutputParser."""
        if self._answer_at >= 0:
            return output[: self._answer_at]
        if self._thoughts and self._state is State.THOUGHTS:
            return f"{output.rstrip()}\n{self._thoughts.closing}\n\n"
        return output

    def _give(self) -> Parsed:
        out, self._out = self._out, Parsed()
        return out

    def _step(self) -> bool:
        """Read what is held as far as its meaning is certain. False when more is needed."""
        match self._state:
            case State.ANSWER:
                return self._answer()
            case State.THOUGHTS:
                return self._thinking()
            case State.CALLS:
                return self._calling()

    def _answer(self) -> bool:
        thoughts, markers = self._thoughts, list(self._dropped)
        if thoughts and thoughts.anywhere:
            markers.append(thoughts.opening)
        elif thoughts and self._answer_at < 0:
            begun = self._begin(thoughts)
            if begun is not None:
                return begun
        if self._calls:
            markers += filter(None, (self._calls.opening, self._calls.bare))
        before, marker, behind = cut(self._held, markers)
        self._say(before)
        self._held = behind
        if not marker:
            return False
        self._mark()
        if self._calls and marker == self._calls.opening:
            self._state, self._opened = State.CALLS, marker
        elif self._calls and marker == self._calls.bare:
            self._state, self._opened, self._held = State.CALLS, "", marker + behind
        elif thoughts and marker == thoughts.opening:
            self._state, self._fresh = State.THOUGHTS, True
        return True

    def _begin(self, thoughts: Tags) -> bool | None:
        """Look for thoughts in front of the answer; None if none begin here, False if more is needed to tell."""
        text = self._held.lstrip()
        if text.startswith(thoughts.opening):
            self._held = text[len(thoughts.opening) :]
            self._state, self._fresh = State.THOUGHTS, True
        elif text.startswith(thoughts.closing):  # of thoughts that the prompt has closed already
            self._held = text[len(thoughts.closing) :]
        else:
            return False if thoughts.opening.startswith(text) or thoughts.closing.startswith(text) else None
        self._mark()
        return True

    def _thinking(self) -> bool:
        assert self._thoughts
        if self._fresh:
            text = self._held.lstrip()
            for head in filter(None, (self._thoughts.opening, self._thoughts.title)):  # the prompt may have both
                if text != head and head.startswith(text):
                    return False
                if text.startswith(head):
                    self._held = text[len(head) :]
                    return True
            self._held, self._fresh = text, False
        markers = [self._thoughts.closing]
        if self._calls and self._calls.end_thoughts:
            markers.append(self._calls.opening)
        before, marker, behind = cut(self._held, markers)
        self._think(before)
        self._held = behind
        if not marker:
            return False
        self._pause = ""
        self._mark()
        self._state, self._opened = (State.ANSWER if marker == self._thoughts.closing else State.CALLS), marker
        return True

    def _calling(self) -> bool:
        assert self._calls
        taken = self._calls.take(self._held, self._functions)
        if taken is None:
            return False
        calls, length = taken
        self._out += Parsed(tool_calls=tuple(calls))
        self._held = self._held[length:]
        self._state = State.ANSWER
        return True

    def _end_calls(self) -> None:
        assert self._calls
        closing = self._calls.closing
        whole = self._held[: len(self._held) - partial_end(self._held, closing)] + closing
        try:
            taken = self._calls.take(whole, self._functions)
        except OutputError:
            taken = None
        if taken:
            self._out += Parsed(tool_calls=tuple(taken[0]))
        else:
            self._say(self._opened + self._held)

    def _mark(self) -> None:
        """A marker ends here."""
        self._after_marker = True
        if self._answer_at < 0:
            self._space = ""

    def _say(self, text: str) -> None:
        begins = self._fed - len(self._held) - len(self._space)
        text = self._space + text
        if self._answer_at < 0 and self._after_marker:
            begins += len(text) - len(text.lstrip())
            text = text.lstrip()
        said = text.rstrip()
        self._space = text[len(said) :]
        if said:
            self._out += Parsed(said)
            self._after_marker = False
            if self._answer_at < 0:
                self._answer_at = begins

    def _think(self, text: str) -> None:
        text = self._pause + text
        thought = text.rstrip()
        self._pause = text[len(thought) :]
        if thought and not self._silent:
            self._out += Parsed(thinking=thought)


def cut(text: str, markers: Sequence[str]) -> tuple[str, str, str]:
    """`text` before the first of `markers`, that marker, and what is behind it.

    Without one: what cannot be part of a marker, "", and the end that may be the beginning of one.
    """
    found = min(((at, marker) for marker in markers if (at := text.find(marker)) >= 0), default=None)
    if found:
        at, marker = found
        return text[:at], marker, text[at + len(marker) :]
    hold = max((partial_end(text, marker) for marker in markers), default=0)
    return text[: len(text) - hold], "", text[len(text) - hold :]


def partial_end(text: str, marker: str) -> int:
    """Length of the longest end of `text` that is a proper beginning of `marker`."""
    for length in range(min(len(text), len(marker) - 1), 0, -1):
        if text.endswith(marker[:length]):
            return length
    return 0
