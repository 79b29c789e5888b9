"""Conversations to prompts: what history a request has, how much of it fits, and which template renders it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from appliance.core import Message, Think
from appliance.errors import InvalidTemplate
from appliance.prompt.gotemplate import GoTemplate
from appliance.prompt.jinja import JinjaTemplate
from appliance.prompt.limits import Limits, Meter
from appliance.prompt.tools import go_message, go_tools, jinja_message, jinja_tool, merged

Tools = Sequence[Mapping[str, Any]]


class PromptTemplate(Protocol):
    """What turns a conversation into the text that the model continues."""

    def render(self, messages: Sequence[Message], *, tools: Tools = (), think: Think | None = None) -> str:
        """The prompt. `think` None: the model knows no thinking. Raises InvalidTemplate."""
        ...


class JinjaPrompt:
    """A model's own chat template.

    A conversation that ends with the assistant's words is continued there: they follow the opening of its turn.
    """

    def __init__(self, template: JinjaTemplate, bos_token: str = "", eos_token: str = "") -> None:
        self.source = template.source
        self._template = template
        self._tokens = {"bos_token": bos_token, "eos_token": eos_token}

    def render(self, messages: Sequence[Message], *, tools: Tools = (), think: Think | None = None) -> str:
        """See PromptTemplate."""
        variables: dict[str, Any] = dict(self._tokens)
        if think is not None:
            variables["enable_thinking"] = bool(think)
        if isinstance(think, str):
            variables["reasoning_effort"] = think
        begun = ""
        if messages and messages[-1].role == "assistant" and not messages[-1].tool_calls:
            begun, messages = messages[-1].content, messages[:-1]
        opened = self._template.render(
            [jinja_message(message) for message in messages], tools=[jinja_tool(tool) for tool in tools], **variables
        )
        return opened + begun


class GoPrompt:
    """A TEMPLATE of Ollama's kind (spec 4.2).

    One that mentions `.Messages` gets the conversation whole; an older one, of `.System`, `.Prompt` and
    `.Response`, is executed once for every exchange, the last time up to `.Response`, where the model goes on.
    """

    def __init__(self, template: GoTemplate) -> None:
        self.source = template.source
        self.template = template

    def render(self, messages: Sequence[Message], *, tools: Tools = (), think: Think | None = None) -> str:
        """See PromptTemplate."""
        messages = merged(messages)
        if "messages" not in self.template.variables:
            return self._render_exchanges(messages, think)
        system = "\n\n".join(message.content for message in messages if message.role == "system")
        conversation = [go_message(message) for message in messages]
        data = {"System": system, "Messages": conversation, "Tools": go_tools(tools), "Response": ""}
        return self.template.execute(data | _thinking(think))

    def render_fim(self, prompt: str, suffix: str, think: Think | None = None) -> str:
        """The prompt for what belongs between `prompt` and `suffix`, neither empty. Raises InvalidTemplate."""
        return self.template.execute({"Prompt": prompt, "Suffix": suffix, "Response": ""} | _thinking(think))

    def _render_exchanges(self, messages: Sequence[Message], think: Think | None) -> str:
        meter = Meter(Limits(), [message.content for message in messages])
        empty = {"System": "", "Prompt": "", "Response": ""} | _thinking(think)
        exchange, pieces = dict(empty), []
        for message in messages:
            full = exchange["Response"] or (message.role == "system" and exchange["Prompt"])
            if full and message.role in ("system", "user"):
                pieces.append(self.template.execute(exchange, meter=meter))
                exchange = dict(empty)
            name = {"system": "System", "user": "Prompt", "assistant": "Response"}.get(message.role)
            if name:
                exchange[name] = message.content
        pieces.append(self.template.execute(exchange, until="Response", meter=meter))
        return "".join(pieces)


def _thinking(think: Think | None) -> dict[str, Any]:
    level = think if isinstance(think, str) else "medium" if think else ""
    return {"Think": bool(think), "ThinkLevel": level, "IsThinkSet": think is not None}


def assemble_history(
    model_system: str, model_messages: Sequence[Message], request_messages: Sequence[Message]
) -> list[Message]:
    """A chat request's conversation: the model's messages, then the request's (spec 1.6).

    The model's system message comes first of all, unless the request begins with one of its own.
    """
    history = [*model_messages, *request_messages]
    if model_system and not (request_messages and request_messages[0].role == "system"):
        history.insert(0, Message("system", model_system))
    return history


def without_thoughts(messages: Sequence[Message]) -> list[Message]:
    """The conversation without the `<think>` parts of what the assistant said before the last user message."""
    users = [i for i, message in enumerate(messages) if message.role == "user"]
    last = users[-1] if users else 0
    return [
        replace(message, content=_without_thought(message.content)) if message.role == "assistant" else message
        for message in messages[:last]
    ] + list(messages[last:])


def _without_thought(content: str) -> str:
    opened = content.lstrip()
    if not opened.startswith("<think>"):
        return content
    _, closed, rest = opened.partition("</think>")
    return rest.lstrip() if closed else content


def numbered(messages: Sequence[Message]) -> list[Message]:
    """The conversation with a marker for each image, `[img-0]` and so on: in place of an `[img]`, else in front."""
    found, number = [], 0
    for message in messages:
        content, before = message.content, ""
        for _ in message.images:
            marker = f"[img-{number}]"
            number += 1
            if "[img]" in content:
                content = content.replace("[img]", marker, 1)
            else:
                before += marker
        found.append(replace(message, content=before + content))
    return found


def images_in(messages: Sequence[Message]) -> int:
    """How many images a conversation has."""
    return sum(len(message.images) for message in messages)


def trim_history(messages: Sequence[Message], fits: Callable[[Sequence[Message]], bool]) -> list[Message]:
    """The conversation less as many of its oldest messages as it takes to fit (spec 1.7).

    System messages among the dropped are kept, first; the last message is kept even if it alone does not fit.
    `fits` is asked once when nothing need go, else about log2 of the messages times, on the assumption that
    fewer messages make a shorter prompt. Where the template refuses a conversation (say, one that begins with
    the assistant), one more message goes; only a refusal of the whole is raised.
    """
    whole = list(messages)
    if len(whole) < 2 or fits(whole):
        return whole
    starts = [i for i in range(1, len(whole)) if whole[i - 1].role != "system"] or [len(whole) - 1]

    def kept(number: int) -> list[Message]:
        start = starts[number]
        return [message for message in whole[:start] if message.role == "system"] + whole[start:]

    best, low, high = len(starts) - 1, 0, len(starts) - 1
    while low < high:
        middle = tried = (low + high) // 2
        fitting = None
        while fitting is None and tried < high:
            try:
                fitting = fits(kept(tried))
            except InvalidTemplate:
                tried += 1
        if fitting is False:
            low = tried + 1
        else:
            high = middle
            best = tried if fitting else best
    return kept(best)
