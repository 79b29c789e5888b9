"""What a template may cost. Templates come with models, and models come from strangers.

Nothing interrupts a running template from outside, so every evaluator here asks the meter before each step that
a template could repeat or enlarge. Whatever goes past a limit is an InvalidTemplate that names the limit.
"""

from __future__ import annotations

import math
import time
from collections.abc import ItemsView, Iterator, KeysView, Mapping, ValuesView
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypeVar

from appliance.errors import InvalidTemplate

Value = TypeVar("Value")
SEQUENCES = (list, tuple, KeysView, ValuesView, ItemsView)


@dataclass(frozen=True, slots=True)
class Limits:
    """One rendering's limits. Texts and elements that the caller puts in come on top of what they allow."""

    time_s: float = 2.0
    output_chars: int = 2**20  # also of any one value on the way there; lists of its parts take up to 90 times that
    elements: int = 250_000  # of one nested value: list items, dictionary entries
    effort: int = 128  # characters built on the way, in multiples of output_chars
    depth: int = 60  # of calls within calls
    source_chars: int = 64 * 2**10


class Meter:
    """What one rendering has cost so far."""

    def __init__(self, limits: Limits, inputs: Any = None) -> None:
        elements, chars = weigh(inputs)
        self._limits = limits
        self._deadline = time.monotonic() + limits.time_s
        self._elements = limits.elements + elements
        self._chars = limits.output_chars + chars
        self._budget = limits.effort * self._chars
        self._depth = 0

    def tick(self) -> None:
        """Raise InvalidTemplate when time is up."""
        if time.monotonic() > self._deadline:
            raise InvalidTemplate(f"template exceeds its time limit of {self._limits.time_s:g} s")

    def fits(self, chars: int) -> None:
        """Raise InvalidTemplate when a text of so many characters would be too long. Ask before building it."""
        if chars > self._chars:
            raise InvalidTemplate(f"template exceeds its size limit of {self._chars:,} characters")

    def charge(self, chars: int) -> None:
        """Note that a text of so many characters was built."""
        self.fits(chars)
        self.spend(chars)

    def spend(self, effort: int) -> None:
        """Take so much off the budget, counted in characters visited; InvalidTemplate when there is none left."""
        self._budget -= effort
        if self._budget < 0:
            total = self._limits.effort * self._chars
            raise InvalidTemplate(f"template exceeds its effort limit of {total:,} characters built on the way")

    def checked(self, value: Value) -> Value:
        """`value`, which the template just made, if it is small enough for whatever may be done with it."""
        self.tick()
        if isinstance(value, str):
            self.charge(len(value))
        elif isinstance(value, int):
            if not -(2**63) <= value < 2**64:
                raise InvalidTemplate("template exceeds the limit of 64 bits of its integers")
        elif isinstance(value, (Mapping, *SEQUENCES)):
            elements, chars = weigh(value, self._elements, self._chars)
            self.fits(chars)
            if elements > self._elements:
                raise InvalidTemplate(f"template exceeds the limit of {self._elements:,} elements of a value")
        return value

    @contextmanager
    def deeper(self) -> Iterator[None]:
        """One call deeper, for as long as the context lasts."""
        self._depth += 1
        try:
            if self._depth > self._limits.depth:
                raise InvalidTemplate(f"template exceeds its limit of {self._limits.depth} nested calls")
            yield
        finally:
            self._depth -= 1


def weigh(value: Any, max_elements: float = math.inf, max_chars: float = math.inf) -> tuple[int, int]:
    """The elements and characters of a nested value, each reference counted: what printing it would visit.

    Stops early at the first figure past its maximum.
    """
    elements = chars = 0
    pending: list[Iterator[Any]] = [iter((value,))]
    while pending and elements <= max_elements and chars <= max_chars:
        for item in pending[-1]:
            elements += 1
            if isinstance(item, str):
                chars += len(item)
                if chars > max_chars:
                    break
            elif isinstance(item, Mapping):
                pending.append(chain.from_iterable(item.items()))
                break
            elif isinstance(item, SEQUENCES):
                pending.append(iter(item))
                break
        else:
            pending.pop()
    return elements, chars
