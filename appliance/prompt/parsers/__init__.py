"""Parsers of what models write: thoughts and tool calls, told from the answer."""

from __future__ import annotations

from appliance.prompt.parsers.base import Expected, OutputParser, Passthrough
from appliance.prompt.parsers.families import FAMILIES, recognised


def output_parser(
    expected: Expected, *, name: str = "", go_template: str = "", chat_template: str = ""
) -> OutputParser:
    """The parser of one answer.

    That of the family that the model's config names, else of the one that its template is recognised as, else one
    that is made of the template's own markup. `go_template` is the TEMPLATE if that builds the prompts, `chat_template`
    the Jinja template if that one does.
    """
    family = name if name in FAMILIES else "" if go_template else recognised(chat_template)
    if family:
        return FAMILIES[family](expected)
    return Passthrough()
