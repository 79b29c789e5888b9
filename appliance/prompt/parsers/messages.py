"""The parser of models that write messages with headers: who it is for, then a marker, then the text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from appliance.prompt.parsers.base import Expected, Parsed, ToolCall
from appliance.prompt.parsers.spans import cut
from appliance.prompt.parsers.values import Unfinished

ROLE = "assistant"


@dataclass(frozen=True, slots=True)
class Envelope:
    """A message's header as it was understood: `function` is called, or it is `thoughts`, or part of the answer.

    `final`: nothing but the answer comes after it.
    """

    function: str = ""
    thoughts: bool = False
    final: bool = False


@dataclass(frozen=True, slots=True)
class Format:
    """How messages are written. `begins` are what a header starts with behind the role."""

    start: str
    message: str
    ends: Sequence[str]
    begins: Sequence[str]
    inner: Sequence[str]
    final: str  # the header of the answer
    read: Callable[[str], Envelope]
    decode: Callable[[str, str], ToolCall]
    """The call of a function by a message's text. Raises OutputError, Unfinished."""


class Messages:
    """Reads the messages of one answer. Thoughts are not returned if the request wants none."""

    def __init__(self, expected: Expected, form: Format) -> None:
        self._form = form
        self._silent = expected.think is False
        self._held = ""
        self._fed = 0
        self._out = Parsed()
        self._body: Envelope | None = None  # None: in a header
        self._call = ""
        self._message_at = 0  # where in the output the message begins
        self._opening: tuple[int, str] | None = None  # what precedes the answer: so much of the output, and this
        _, begun, header = expected.prompt.rpartition(form.start)
        self._header = header.removeprefix(ROLE) if begun else ""  # what the prompt has of it
        self._role = False  # whether the role comes first in a header
        if form.message in self._header:
            self._body = form.read(self._header.partition(form.message)[0].strip())

    @property
    def markup(self) -> tuple[str, ...]:
        """See OutputParser."""
        return (self._form.start, self._form.message, *self._form.ends, *self._form.inner)

    def feed(self, text: str) -> Parsed:
        """See OutputParser."""
        self._held += text
        self._fed += len(text)
        while self._held and (self._read_body() if self._body else self._read_header()):
            pass
        return self._give()

    def finish(self) -> Parsed:
        """See OutputParser. A call that breaks off is part of the answer."""
        if self._body:
            self._take(self._held)
            self._end(broken=True)
        elif not self._has_header(self._held):
            self._say(self._held)
        self._held = ""
        return self._give()

    def opening(self, output: str) -> str:
        """See OutputParser."""
        if self._opening:
            at, header = self._opening
            return output[:at] + header
        if self._body and self._body.thoughts:
            return f"{output}{self._form.ends[0]}{self._form.final}"
        return output[: self._message_at] + self._final_header()

    def _final_header(self) -> str:
        """The header of the answer where the message begins; in the prompt its start has been written."""
        return self._form.final if self._message_at else self._form.final.removeprefix(self._form.start + ROLE)

    def _give(self) -> Parsed:
        out, self._out = self._out, Parsed()
        return out

    def _read_header(self) -> bool:
        form = self._form
        before, marker, behind = cut(self._held, (form.message, form.start, *form.ends))
        header = self._without_role(self._header + before)
        if not any(header.startswith(begin) or begin.startswith(header) for begin in form.begins):
            self._body = Envelope(final=True)  # a text without a header
            return True
        if not marker:
            return False
        self._held = behind
        if marker == form.message:
            self._body = form.read(header)
        else:
            self._next(marker)
        return True

    def _has_header(self, text: str) -> bool:
        header = self._without_role(self._header + text)
        return (self._role and not header) or any(header.startswith(begin) for begin in self._form.begins)

    def _without_role(self, header: str) -> str:
        if self._role:
            header = "" if ROLE.startswith(header) else header.removeprefix(ROLE)
        return header.lstrip()

    def _read_body(self) -> bool:
        form = self._form
        before, marker, behind = cut(self._held, (form.start, *form.ends, form.message, *form.inner))
        self._take(before)
        held, self._held = self._held, behind
        if not marker:
            return False
        if marker in form.begins:  # the end of the message before is missing
            self._held = held[len(before) :]
        if marker in form.begins or marker == form.start or marker in form.ends:
            self._end()
            self._next(marker)
        return True

    def _next(self, marker: str) -> None:
        """A message begins behind `marker`."""
        self._body, self._header, self._role = None, "", marker == self._form.start
        self._message_at = self._fed - len(self._held) - (len(marker) if self._role else 0)

    def _take(self, text: str) -> None:
        assert self._body
        if self._body.function:
            self._call += text
        elif self._body.thoughts:
            self._out += Parsed(thinking="" if self._silent else text)
        elif text:
            self._say(text)

    def _say(self, text: str) -> None:
        if not self._opening:
            final = self._body is None or self._body.final
            begins = self._fed - len(self._held)
            self._opening = (begins, "") if final else (self._message_at, self._final_header())
        self._out += Parsed(text)

    def _end(self, *, broken: bool = False) -> None:
        """The message ends, and with it the call that it is."""
        assert self._body
        text, self._call = self._call, ""
        if not self._body.function:
            return
        try:
            self._out += Parsed(tool_calls=(self._form.decode(self._body.function, text),))
        except Unfinished:
            if not broken:
                raise
            self._say(text)
