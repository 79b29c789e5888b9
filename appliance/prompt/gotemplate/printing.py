"""Go's fmt.Sprintf, as far as templates go: flags, widths, precisions and the verbs v d s q t f e g x X o b c U."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from appliance.prompt.gotemplate.lexer import quote
from appliance.prompt.gotemplate.values import show, to_json, type_name
from appliance.prompt.limits import Meter

DIRECTIVE = re.compile(
    r"%(?P<flags>[-+# 0]*)(?P<width>\d+|\*)?(?:\.(?P<precision>\d+|\*)?)?"
    r"(?:\[(?P<index>\d{1,6})\])?(?P<verb>[^\d])?"
)


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
    """fmt.Sprintf; what doesn't fit is printed as Go complains, `%!d(string=hi)`."""
    pieces: list[str] = []
    position = taken = chars = 0
    reordered = False
    while (start := layout.find("%", position)) >= 0:
        found = DIRECTIVE.match(layout, start)
        assert found  # a per cent sign alone matches
        pieces.append(layout[position:start])
        width, taken = _number(found["width"], values, taken)
        precision, taken = _number(found["precision"], values, taken)
        if found["precision"] is None and "." in found[0][:-1]:
            precision = 0
        if found["index"]:
            reordered, taken = True, max(int(found["index"]) - 1, 0)
        meter.fits(abs(width or 0) + (precision or 0))
        verb = found["verb"]
        if verb is None:
            pieces.append("%!(NOVERB)")
        elif verb == "%":
            pieces.append("%")
        elif taken >= len(values):
            pieces.append(f"%!{verb}(MISSING)")
        else:
            pieces.append(_padded(values[taken], verb, found["flags"], width, precision))
            taken += 1
        position = found.end()
        chars += len(pieces[-2]) + len(pieces[-1])
        meter.fits(chars)
    pieces.append(layout[position:])
    if taken < len(values) and not reordered:
        extra = ", ".join(f"{type_name(value)}={show(value)}" for value in values[taken:])
        pieces.append(f"%!(EXTRA {extra})")
    return "".join(pieces)


def _number(spelled: str | None, values: Sequence[Any], taken: int) -> tuple[int | None, int]:
    if spelled != "*":
        return (int(spelled[:20]) if spelled else None), taken
    value = values[taken] if taken < len(values) else None
    return (value if isinstance(value, int) else None), taken + 1


def _padded(value: Any, verb: str, flags: str, width: int | None, precision: int | None) -> str:
    text = _formatted(value, verb, flags, precision)
    if text is None:
        return f"%!{verb}({type_name(value)}={show(value)})" if value is not None else f"%!{verb}(<nil>)"
    width = width or 0
    if "-" in flags or width < 0:
        return text.ljust(abs(width))
    if "0" in flags and isinstance(value, int | float):
        return text.zfill(width)
    return text.rjust(width)


def _formatted(value: Any, verb: str, flags: str, precision: int | None) -> str | None:
    """The text before padding; None when the verb is not for such a value."""
    if verb == "v":
        return to_json(value) if "#" in flags and not isinstance(value, str) else _plain(value, flags, precision)
    if verb == "T":
        return type_name(value)
    if isinstance(value, bool):
        return show(value) if verb == "t" else None
    if isinstance(value, int):
        return _integer(value, verb, flags)
    if isinstance(value, float):
        return _float(value, verb, flags, precision)
    text = show(value)
    if verb == "s" and value is not None:
        return text if precision is None else text[:precision]
    if verb == "q" and value is not None:
        return f"`{text}`" if "#" in flags and "`" not in text else quote(text)
    if verb in "xX" and isinstance(value, str):
        digits = text.encode("utf-8", "replace").hex()
        return digits.upper() if verb == "X" else digits
    return None


def _plain(value: Any, flags: str, precision: int | None) -> str:
    if isinstance(value, str) and precision is not None:
        return value[:precision]
    if isinstance(value, str) and "#" in flags:
        return quote(value)
    signed = "+" in flags and isinstance(value, int | float) and not isinstance(value, bool) and value >= 0
    return ("+" if signed else "") + show(value)


def _integer(value: int, verb: str, flags: str) -> str | None:
    sign = "+" if "+" in flags and value >= 0 else " " if " " in flags and value >= 0 else ""
    match verb:
        case "d":
            return f"{sign}{value}"
        case "x" | "X" | "o" | "b":
            return sign + format(value, f"#{verb}" if "#" in flags else verb)
        case "c" | "q" | "U":
            inside = 0 <= value <= 0x10FFFF and not 0xD800 <= value < 0xE000
            character = chr(value) if inside else "\ufffd"
            return {"c": character, "q": f"'{character}'", "U": f"U+{value:04X}"}[verb]
    return None


def _float(value: float, verb: str, flags: str, precision: int | None) -> str | None:
    if verb not in "feEgGF":
        return None
    sign = "+" if "+" in flags else " " if " " in flags else ""
    if verb in "gG" and precision is None:
        text = show(value)
        return ("+" if sign == "+" and value >= 0 else "") + text
    return format(value, f"{sign}.{6 if precision is None else precision}{verb}")
