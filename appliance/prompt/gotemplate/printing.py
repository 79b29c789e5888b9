"""Go's fmt.Sprint, Sprintln and Sprintf."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from appliance.prompt.gotemplate.formatting import Directive, Formatter
from appliance.prompt.gotemplate.values import show, type_name
from appliance.prompt.limits import Meter

WIDEST = 10**6  # fmt takes a larger number for a mistake


def sprint(meter: Meter, values: Sequence[Any]) -> str:
    """fmt.Sprint: a space between two neighbours of which neither is a string."""
    return _joined(meter, values, lambda a, b: not isinstance(a, str) and not isinstance(b, str))


def sprintln(meter: Meter, values: Sequence[Any]) -> str:
    """fmt.Sprintln: spaces between all, a newline at the end."""
    return _joined(meter, values, lambda a, b: True) + "\n"


def _joined(meter: Meter, values: Sequence[Any], spaced: Callable[[Any, Any], bool]) -> str:
    pieces, chars = [], 0
    for i, value in enumerate(values):
        space = " " if i and spaced(values[i - 1], value) else ""
        pieces.append(space + show(value))
        chars += len(pieces[-1])
        meter.fits(chars)
    return "".join(pieces)


def sprintf(meter: Meter, layout: str, values: Sequence[Any]) -> str:
    """fmt.Sprintf; what doesn't fit is printed as Go complains, `%!d(string=hi)`. Raises Unprintable."""
    return Printf(meter, layout, values).run()


class Printf:
    """One run over a layout."""

    def __init__(self, meter: Meter, layout: str, values: Sequence[Any]) -> None:
        self._meter = meter
        self._layout = layout
        self._values = values
        self._position = 0
        self._taken = 0  # arguments
        self._reordered = False
        self._good_index = True
        self._pieces: list[str] = []
        self._chars = 0

    def run(self) -> str:
        """The text."""
        while (start := self._layout.find("%", self._position)) >= 0:
            self._write(self._layout[self._position : start])
            self._position = start + 1
            self._directive()
        self._write(self._layout[self._position :])
        if self._taken < len(self._values) and not self._reordered:
            self._write(f"%!(EXTRA {', '.join(map(self._extra, self._values[self._taken :]))})")
        return "".join(self._pieces)

    def _write(self, text: str) -> None:
        self._pieces.append(text)
        self._chars += len(text)
        self._meter.fits(self._chars)

    def _extra(self, value: Any) -> str:
        return "<nil>" if value is None else f"{type_name(value)}={show(value)}"

    def _directive(self) -> None:
        self._good_index = True
        found = self._flags()
        indexed = self._index()
        found.width, indexed = self._width(found, indexed)
        if self._next() == "." and self._position + 1 < len(self._layout):
            self._position += 1
            self._good_index = self._good_index and not indexed
            found.precision, indexed = self._precision()
        if not indexed:
            self._index()
        if not (verb := self._next()):
            self._write("%!(NOVERB)")
            return
        self._position += 1
        if verb == "%":
            self._write("%")
        elif not self._good_index:
            self._write(f"%!{verb}(BADINDEX)")
        elif self._taken >= len(self._values):
            self._write(f"%!{verb}(MISSING)")
        else:
            self._argument(found, verb)

    def _argument(self, found: Directive, verb: str) -> None:
        found.verb = verb
        if verb == "v":
            found.sharp_v, found.plus_v = found.sharp, found.plus
            found.sharp = found.plus = False
        self._meter.fits(self._chars + (found.width or 0) + (found.precision or 0))
        value = self._values[self._taken]
        self._taken += 1
        self._write(Formatter(self._meter, found).argument(value))

    def _next(self) -> str:
        return self._layout[self._position : self._position + 1]

    def _flags(self) -> Directive:
        found = Directive("")
        while (flag := self._next()) and flag in "#0+- ":
            self._position += 1
            match flag:
                case "#":
                    found.sharp = True
                case "+":
                    found.plus = True
                case " ":
                    found.space = True
                case "0":
                    found.zero = not found.minus
                case "-":
                    found.minus, found.zero = True, False
        return found

    def _index(self) -> bool:
        """Read `[n]`, which chooses the next argument; returns whether it is there and a number."""
        if self._next() != "[":
            return False
        self._reordered = True
        closing = self._layout.find("]", self._position)
        if closing < 0 or len(self._layout) - self._position < 3:
            self._position += 1
            self._good_index = False
            return False
        spelled = self._layout[self._position + 1 : closing]
        self._position = closing + 1
        number = int(spelled) if _is_number(spelled) else None
        if number is not None and 1 <= number <= len(self._values):
            self._taken = number - 1
        else:
            self._good_index = False
        return number is not None

    def _width(self, found: Directive, indexed: bool) -> tuple[int | None, bool]:
        if self._next() != "*":
            width = self._number()
            self._good_index = self._good_index and not (indexed and width is not None)
            return width, indexed
        width = self._from_argument()
        if width is None:
            self._write("%!(BADWIDTH)")
        elif width < 0:
            width, found.minus, found.zero = -width, True, False
        return width, False

    def _precision(self) -> tuple[int | None, bool]:
        indexed = self._index()
        if self._next() != "*":
            return self._number() or 0, indexed
        precision = self._from_argument()
        if precision is None or precision < 0:
            self._write("%!(BADPREC)")
            precision = None
        return precision, False

    def _number(self) -> int | None:
        start = self._position
        while self._next() and self._next() in "0123456789":
            self._position += 1
        spelled = self._layout[start : self._position]
        if not spelled or _is_number(spelled):
            return int(spelled) if spelled else None
        self._position = len(self._layout)
        return None

    def _from_argument(self) -> int | None:
        self._position += 1
        value = self._values[self._taken] if self._taken < len(self._values) else None
        self._taken = min(self._taken + 1, len(self._values))
        return value if type(value) is int and abs(value) <= WIDEST else None


def _is_number(spelled: str) -> bool:
    return spelled.isascii() and spelled.isdigit() and int(spelled[:20]) // 10 <= WIDEST
