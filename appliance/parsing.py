"""What a model said, taken apart: the answer, its thoughts and its tool calls, in replies of their own."""

from __future__ import annotations

import contextlib
import logging
import secrets
import string
from collections.abc import AsyncGenerator, Iterable, Mapping
from dataclasses import replace
from typing import Any

from appliance.core import ChatRequest, GenerateRequest, Reply
from appliance.engine.calls import CallConstraint, Watch
from appliance.generation import Prompt
from appliance.prompt.parsers import output_parser
from appliance.prompt.parsers.base import Expected, OutputParser, Parsed, Passthrough, ToolCall
from appliance.prompt.parsers.shape import call_shape, thought_marks
from appliance.prompting import compiled, template_of, thinking
from appliance.runner import DecoderRunner
from appliance.store.store import StoredModel

log = logging.getLogger(__name__)

ID_ALPHABET = string.ascii_lowercase + string.digits
ID_CHARS = 8


def parser_of(
    model: StoredModel, request: ChatRequest | GenerateRequest, runner: DecoderRunner, prompt: Prompt
) -> OutputParser:
    """The parser of the answer to `prompt`."""
    if isinstance(request, GenerateRequest) and request.raw:
        return Passthrough()
    tools = request.tools if isinstance(request, ChatRequest) else ()
    replaced = isinstance(request, GenerateRequest) and request.template
    template = compiled(replaced) if replaced else template_of(model, runner)
    expected = Expected(tools, thinking(model, request), prompt.text)
    return output_parser(expected, template, model.parser)


def calls_of(
    model: StoredModel, request: ChatRequest | GenerateRequest, runner: DecoderRunner, prompt: Prompt
) -> CallConstraint | None:
    """What holds the arguments of calls to the schemas of the request's tools.

    None without tools, and where the model's template writes arguments otherwise than as JSON behind the tool's name.
    """
    if not isinstance(request, ChatRequest) or not request.tools:
        return None
    template = template_of(model, runner)
    shape = call_shape(template)
    if shape is None:
        log.info("%s writes no JSON in its calls: their arguments are not held to a schema", model.name.short)
        return None
    functions = Expected(request.tools).functions
    thoughts, said = thought_marks(template), prompt.text.rstrip()
    opened = thoughts is not None and said.endswith(thoughts[0])
    watch = Watch(shape, list(functions), thoughts, thinking=opened)
    control = runner.tokenizer.marks((shape.lead, shape.before, shape.between, shape.after))
    shown = runner.tokenizer.marks((shape.tag, *(thoughts or ())))
    return CallConstraint(
        watch,
        runner.tokenizer.stream(prompt.tokens, shown),
        runner.calls.compiled(shape, functions, control),
        opened=bool(shape.tag) and said.endswith(shape.tag),
    )


async def parsed(
    replies: AsyncGenerator[Reply, None], parser: OutputParser, *, calls_last: bool = False
) -> AsyncGenerator[Reply, None]:
    """The replies as `parser` reads them, each call in one of its own as soon as it is complete.

    With `calls_last` the last reply has all calls, without ids. Log probabilities leave with the token they belong
    to, whether or not its text is held back. Raises OutputError.
    """
    made: list[ToolCall] = []
    async with contextlib.aclosing(replies):
        async for reply in replies:
            found = parser.feed(reply.text) if reply.text else Parsed()
            if reply.done:
                found += parser.finish()
            if found.text or found.thinking or reply.logprobs:
                yield Reply(text=found.text, thinking=found.thinking, logprobs=reply.logprobs)
            if found.tool_calls and not calls_last:
                yield Reply(tool_calls=tuple(numbered(found.tool_calls, len(made))))
            made += found.tool_calls
            if reply.done:
                late = tuple(numbered(made, identified=False)) if calls_last else ()
                yield replace(reply, text="", logprobs=(), tool_calls=late)


def numbered(calls: Iterable[ToolCall], first: int = 0, *, identified: bool = True) -> Iterable[Mapping[str, Any]]:
    """Calls as replies carry them, counted from `first`."""
    for index, call in enumerate(calls, first):
        function = {"index": index, "name": call.name, "arguments": dict(call.arguments)}
        yield ({"id": new_id()} if identified else {}) | {"function": function}


def new_id() -> str:
    """A tool call's id."""
    return "call_" + "".join(secrets.choice(ID_ALPHABET) for _ in range(ID_CHARS))
