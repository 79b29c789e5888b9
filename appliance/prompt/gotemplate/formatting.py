"""One value under one of fmt's directives, such as `%-5.2f`, as Go prints it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from appliance.prompt.gotemplate.lexer import quote
from appliance.prompt.gotemplate.values import (
    Struct,
    decoded,
    encoded,
    has_own_text,
    is_character,
    show,
    show_float,
    type_name,
)
from appliance.prompt.limits import Meter


class Unprintable(Exception):
    """The message says which directive is not served."""


@dataclass(slots=True)
class Directive:
    """What stands behind a per cent sign. `sharp_v` and `plus_v` are `#` and `+` of the verb v."""

    verb: str
    plus: bool = False
    minus: bool = False
    sharp: bool = False
    space: bool = False
    zero: bool = False
    width: int | None = None
    precision: int | None = None
    plus_v: bool = False
    sharp_v: bool = False


class Formatter:
    """Formats values, each under the same directive, within the meter's limits."""

    def __init__(self, meter: Meter, directive: Directive) -> None:
        self._meter = meter
        self._directive = directive
        self._methods = True  # whether values that have a text of their own are asked for it

    def argument(self, value: Any) -> str:
        """An argument of Printf. Raises Unprintable for what is not served here, and nowhere else."""
        verb = self._directive.verb
        if value is None:
            return self._padded("<nil>") if verb in "vT" else f"%!{verb}(<nil>)"
        if verb == "T":
            return self._string_of(type_name(value))
        if verb == "p" and isinstance(value, list | Mapping) and not isinstance(value, Struct):
            raise Unprintable("%p prints addresses, which is not supported")
        return self._value(value)

    def _value(self, value: Any) -> str:
        verb = self._directive.verb
        if isinstance(value, str):
            return self._string(value)
        if isinstance(value, bool):
            return self._padded(show(value)) if verb in "tv" else self._refused(value)
        if isinstance(value, int):
            return self._integer(value)
        if isinstance(value, float):
            return self._float(value)
        if isinstance(value, bytes) and verb in "sqxX":
            return self._string(decoded(value))
        if self._methods and has_own_text(value) and verb in "vsxXq" and not self._directive.sharp_v:
            return self._string(show(value))
        return self._composite(value)

    def _refused(self, value: Any) -> str:
        """What Go prints for a verb that is not for such a value."""
        inner = Formatter(self._meter, replace(self._directive, verb="v"))
        inner._methods = False
        return f"%!{self._directive.verb}({type_name(value)}={inner._value(value)})"

    # text

    def _padded(self, text: str, zeros: bool = True) -> str:
        directive, width = self._directive, self._directive.width or 0
        if directive.minus:
            return text.ljust(width)
        return text.rjust(width, "0" if zeros and directive.zero else " ")

    def _string_of(self, text: str) -> str:
        return self._padded(text[: self._directive.precision])

    def _string(self, text: str) -> str:
        directive = self._directive
        match directive.verb:
            case "v" if not directive.sharp_v:
                return self._string_of(text)
            case "s":
                return self._string_of(text)
            case "v" | "q":
                text = text[: directive.precision]
                raw = directive.sharp and "`" not in text and all(map(_can_be_raw, text))
                return self._padded(f"`{text}`" if raw else quote(text, ascii_only=directive.plus))
            case "x" | "X":
                return self._hex(encoded(text)[: directive.precision])
        return self._refused(text)

    def _hex(self, content: bytes) -> str:
        directive = self._directive
        prefix = "0x" if directive.sharp else ""
        digits = (f" {prefix}" if directive.space else "").join(f"{byte:02x}" for byte in content)
        text = prefix + digits if content else ""
        return self._padded(text.upper() if directive.verb == "X" else text)

    # numbers

    def _integer(self, value: int) -> str:
        directive = self._directive
        match directive.verb:
            case "v" | "d":
                return self._digits(value, "d")
            case "b" | "x" | "X" | "o":
                prefix = {"b": "0b", "x": "0x", "X": "0X", "o": "0"}[directive.verb] if directive.sharp else ""
                return self._digits(value, directive.verb, prefix)
            case "O":
                return self._digits(value, "o", "0o")
            case "c":
                return self._padded(_character(value))
            case "q":
                quoted = quote(_character(value), "'", ascii_only=directive.plus)
                return self._padded(quoted)
            case "U":
                return self._code_point(value)
        return self._refused(value)

    def _digits(self, value: int, base: str, prefix: str = "") -> str:
        directive = self._directive
        sign = "-" if value < 0 else "+" if directive.plus else " " if directive.space else ""
        if directive.precision == 0 and value == 0:
            return " " * (directive.width or 0)
        least = directive.precision
        if least is None and directive.zero and directive.width is not None:
            least = directive.width - len(sign)
        digits = format(abs(value), base).rjust(least or 0, "0")
        if prefix == "0" and digits.startswith("0"):
            prefix = ""
        return self._padded(sign + prefix + digits, zeros=False)

    def _code_point(self, value: int) -> str:
        digits = f"{value % 2**64:X}".rjust(max(self._directive.precision or 0, 4), "0")
        shown = self._directive.sharp and is_character(value) and chr(value).isprintable()
        return self._padded(f"U+{digits}" + (f" '{chr(value)}'" if shown else ""), zeros=False)

    def _float(self, value: float) -> str:
        directive = self._directive
        verb = {"v": "g", "F": "f"}.get(directive.verb, directive.verb)
        if verb in "bxX" or (directive.sharp and verb in "eEfgG"):
            raise Unprintable(f"%{'#' * directive.sharp}{directive.verb} of a float is not supported")
        if verb not in "eEfgG":
            return self._refused(value)
        if not math.isfinite(value) or (directive.precision is None and verb in "gG"):
            text = show_float(value)
            return self._signed(text.upper() if verb == "G" and math.isfinite(value) else text)
        precision = 6 if directive.precision is None else directive.precision
        return self._signed(format(value, f".{precision}{verb}"))

    def _signed(self, text: str) -> str:
        directive = self._directive
        digits = text.lstrip("+-")
        sign = "-" if text.startswith("-") else "+" if directive.plus else " " if directive.space else ""
        if digits in ("Inf", "NaN"):
            return self._padded((sign or text[:-3]) + digits, zeros=False)
        if sign and directive.zero and directive.width is not None:
            return sign + digits.rjust(directive.width - 1, "0")
        return self._padded(sign + digits)

    # what holds other values

    def _composite(self, value: Any) -> str:
        go_syntax = self._directive.sharp_v
        if isinstance(value, Struct):
            named = go_syntax or self._directive.plus_v
            parts: Iterable[str] = ((f"{name}:" if named else "") + self._inner(item) for name, item in value.items())
            opening, closing = "{", "}"
        elif isinstance(value, Mapping):
            parts = (f"{self._inner(key)}:{self._inner(value[key])}" for key in sorted(value, key=encoded))
            opening, closing = ("{", "}") if go_syntax else ("map[", "]")
        else:
            parts = map(self._inner, value)
            opening, closing = ("{", "}") if go_syntax else ("[", "]")
        kind = type_name(value) if go_syntax else ""
        return kind + opening + (", " if go_syntax else " ").join(self._measured(parts)) + closing

    def _measured(self, parts: Iterable[str]) -> list[str]:
        measured, chars = [], 0
        for part in parts:
            chars += len(part) + 1
            self._meter.fits(chars)
            measured.append(part)
        return measured

    def _inner(self, value: Any) -> str:
        if value is None:
            return "interface {}(nil)" if self._directive.sharp_v else "<nil>"
        return self._value(value)


def _character(value: int) -> str:
    return chr(value) if is_character(value) else "\ufffd"


def _can_be_raw(character: str) -> bool:
    return character == "\t" or not (character < " " or character in "\x7f\ufeff" or "\ud800" <= character < "\ue000")
