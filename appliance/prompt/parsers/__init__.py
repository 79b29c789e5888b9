"""Parsers of what models write: thoughts and tool calls, told from the answer."""

from __future__ import annotations

from appliance.prompt.chat import GoPrompt, JinjaPrompt
from appliance.prompt.parsers.base import Chain, Expected, OutputParser, Passthrough
from appliance.prompt.parsers.families import FAMILIES, recognised
from appliance.prompt.parsers.harmony import HARMONY
from appliance.prompt.parsers.json_calls import THINK, thoughts
from appliance.prompt.parsers.markup import call_tag
from appliance.prompt.parsers.tagged import BARE, TagParser
from appliance.prompt.parsers.thinking import ThinkingParser, thinking_tags


def output_parser(expected: Expected, template: GoPrompt | JinjaPrompt, name: str = "") -> OutputParser:
    """The parser of one answer to a prompt that `template` built.

    That of the family that the model's config names (of appliance.families), else of the one that a Jinja template is
    recognised as, else one that is made of the template's own markup: thoughts, then calls in the rest.
    """
    family = family_of(template, name)
    if family:
        return FAMILIES[family](expected)
    thinking = _thinking(expected, template)
    calls = _calls(expected, template) if expected.tools else None
    return Chain(thinking, calls) if thinking and calls else thinking or calls or Passthrough()


def family_of(template: GoPrompt | JinjaPrompt, name: str = "") -> str:
    """The family of a model whose config names the parser `name`, or none; "" if it has none of its own."""
    if name:
        return name
    if isinstance(template, JinjaPrompt):
        return recognised(template.source)
    return HARMONY if recognised(template.template.source) == HARMONY else ""


def _thinking(expected: Expected, template: GoPrompt | JinjaPrompt) -> OutputParser | None:
    """What reads thoughts; None where the model has none. Without `think` the tags of a TEMPLATE stay (spec 4.5)."""
    if isinstance(template, JinjaPrompt):
        return thoughts(expected) if THINK.opening in template.source and THINK.closing in template.source else None
    tags = thinking_tags(template.template) if expected.think else None
    return ThinkingParser(tags, expected) if tags else None


def _calls(expected: Expected, template: GoPrompt | JinjaPrompt) -> OutputParser:
    tag = call_tag(template)
    return TagParser(tag, expected.functions, opened=tag not in BARE and expected.prompt.rstrip().endswith(tag))
