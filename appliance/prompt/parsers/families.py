"""The families of models whose markup has a parser of its own, under the names that `PARSER` knows."""

from __future__ import annotations

from collections.abc import Mapping

from appliance.prompt.parsers.base import MakeParser, Passthrough

FAMILIES: Mapping[str, MakeParser] = {
    "passthrough": lambda _: Passthrough(),
}


def recognised(template: str) -> str:
    """The family whose markup a Jinja template writes, "" where none is known."""
    return ""
