"""Parsers of what models write: thoughts and tool calls, told from the answer."""

from __future__ import annotations

from appliance.prompt.chat import GoPrompt, JinjaPrompt
from appliance.prompt.parsers.base import Expected, OutputParser, Passthrough
from appliance.prompt.parsers.families import FAMILIES, recognised
from appliance.prompt.parsers.markup import call_tag
from appliance.prompt.parsers.tagged import BARE, TagParser


def output_parser(expected: Expected, template: GoPrompt | JinjaPrompt, name: str = "") -> OutputParser:
    """The parser of one answer to a prompt that `template` built.

    That of the family that the model's config names, else of the one that a Jinja template is recognised as, else one
    that is made of the template's own markup.
    """
    family = name if name in FAMILIES else "" if isinstance(template, GoPrompt) else recognised(template.source)
    if family:
        return FAMILIES[family](expected)
    if not expected.tools:
        return Passthrough()
    tag = call_tag(template)
    return TagParser(tag, expected.functions, opened=tag not in BARE and expected.prompt.rstrip().endswith(tag))
