"""The shape of a call whose arguments are JSON: what a template writes before, between and behind its parts."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache

from appliance.prompt.chat import GoPrompt, JinjaPrompt
from appliance.prompt.parsers.markup import CACHED_TEMPLATES, KEY, NAME, VALUE, call_tag, written_call
from appliance.prompt.parsers.tagged import BARE

THOUGHTS = (("<think>", "</think>"), ("[THINK]", "[/THINK]"))


@dataclass(frozen=True, slots=True)
class CallShape:
    """`lead`, `before`, a tool's name, `between`, its arguments, `after`; all of it behind `tag`.

    With `in_object` name and arguments are members of a JSON object, which `before` opens and `after` closes, and
    `tag` is "" where nothing but that object, or a list of such, tells a call. The id of a call reads ID.
    """

    tag: str
    lead: str
    before: str
    between: str
    after: str
    in_object: bool


def thought_marks(template: GoPrompt | JinjaPrompt) -> tuple[str, str] | None:
    """What thoughts stand between, as the template shows it."""
    return next((marks for marks in THOUGHTS if all(mark in template.source for mark in marks)), None)


@lru_cache(CACHED_TEMPLATES)
def call_shape(template: GoPrompt | JinjaPrompt) -> CallShape | None:
    """How `template` writes a call, None where arguments are no JSON or the name does not come first."""
    written, tag = written_call(template).lstrip(), call_tag(template)
    before, named, rest = written.partition(NAME)
    if not named:
        return None
    arguments = rest.find("{")
    if arguments < 0 or (tag not in BARE and not before.startswith(tag)):
        return None
    try:
        found, end = json.JSONDecoder().raw_decode(rest, arguments)
    except ValueError:
        return None
    if found != {KEY: VALUE}:
        return None
    tag = "" if tag in BARE else tag
    before, between, after = before[len(tag) :], rest[:arguments], rest[end:]
    if "{" not in before:
        return CallShape(tag, "", before, between, "", in_object=False)
    brace = before.rindex("{")
    closing = after.find("}") + 1
    if not closing or "}" in before[brace:] + between or before.count("{") > 1:
        return None
    return CallShape(tag, before[:brace], before[brace:], between, after[:closing], in_object=True)
