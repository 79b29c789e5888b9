"""How a model writes tool calls, learned from its template."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache

from appliance.core import Message
from appliance.errors import InvalidTemplate
from appliance.prompt.chat import GoPrompt, JinjaPrompt
from appliance.prompt.gotemplate.nodes import Action, Block, Branch, Text, names_in

NAME = "tool9sentinel"  # what templates are given to write; nothing that they could contain
KEY, VALUE, ID, WORD = "key9sentinel", "value9sentinel", "id9sentin", "word9sentinel"
KNOWN_TAGS = ("<tool_call>", "[TOOL_CALLS]", "<|tool_call|>", "<function_call>", "<functioncall>")
CACHED_TEMPLATES = 32

TOOL = {
    "type": "function",
    "function": {
        "name": NAME,
        "description": WORD,
        "parameters": {"type": "object", "properties": {KEY: {"type": "string"}}, "required": [KEY]},
    },
}
CALL = {"id": ID, "function": {"index": 0, "name": NAME, "arguments": {KEY: VALUE}}}
ASKED = Message("user", WORD)
SAID = Message("assistant", WORD + NAME)
CALLED = Message("assistant", tool_calls=(CALL,))
RESULT = Message("tool", WORD, tool_name=NAME, tool_call_id=ID)


@lru_cache(CACHED_TEMPLATES)
def call_tag(template: GoPrompt | JinjaPrompt) -> str:
    """The text with which the model begins its calls, "{" where it is a call's JSON that comes first.

    Of a Go template it is the first text in the block for calls, up to JSON's brace (spec 4.4). A Jinja template is
    asked to write a call.
    """
    if isinstance(template, GoPrompt):
        return _tag(next(_call_texts(template.template.blocks), ""))
    lead, named, _ = written_call(template).partition(NAME)
    if named:
        return _tag(lead)
    return next((tag for tag in KNOWN_TAGS if tag in template.source), "{")


def _tag(lead: str) -> str:
    """The tag that a call's first text shows; a list's bracket behind a mark is not part of it."""
    tag = lead.partition("{")[0].strip()
    return tag.rstrip("[ \n") or tag or "{"


def _call_texts(blocks: Iterable[Block]) -> Iterator[str]:
    """The texts in the first parts of Go templates that depend on there being calls."""
    for block in blocks:
        for node in block:
            if isinstance(node, Branch):
                if "ToolCalls" in names_in((Action(node.pipe),)):
                    yield from _texts(node.body)
                yield from _call_texts((node.body, node.otherwise))


def _texts(block: Block) -> Iterator[str]:
    for node in block:
        if isinstance(node, Text) and node.text.strip():
            yield node.text
        elif isinstance(node, Branch):
            yield from _texts(node.body)
            yield from _texts(node.otherwise)


@lru_cache(CACHED_TEMPLATES)
def written_call(template: GoPrompt | JinjaPrompt) -> str:
    """What the template writes for an assistant's turn that calls NAME with KEY: VALUE, and all after it.

    "" where it does not say: it refuses the conversation, or shows no calls.
    """
    call = _rendered(template, CALLED, RESULT)
    for later in (RESULT, ASKED):  # some refuse the result of no call, some say more before the newest question
        said = _rendered(template, SAID, later)
        turn = said.find(SAID.content)
        if turn >= 0 and call[:turn] == said[:turn]:
            return call[turn:]
    return ""


def _rendered(template: GoPrompt | JinjaPrompt, *turns: Message) -> str:
    try:
        return template.render([ASKED, *turns], tools=[TOOL])
    except InvalidTemplate:
        return ""
