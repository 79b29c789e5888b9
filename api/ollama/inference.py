"""POST /api/generate and /api/chat."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any, TypeVar, cast

import msgspec
from litestar import Response, post
from litestar.params import JSONBody

from api import streaming
from api.encode import JSONResponse, utc_now
from api.ollama import wire
from api.ollama.routes import ERRORS, StreamedOperation
from api.requests import GoJSON
from api.service import Injected
from appliance import core
from appliance.errors import InvalidRequest, ModelNotFound

T = TypeVar("T")


@post(
    "/api/generate",
    status_code=200,
    dto=GoJSON[wire.GenerateRequest],
    operation_class=StreamedOperation,
    responses=ERRORS,
)
async def generate(data: JSONBody[wire.GenerateRequest], service: Injected) -> Response[wire.GenerateResponse]:
    """Continue a prompt; without one, load the model or, with `keep_alive` 0, unload it."""
    request = core.GenerateRequest(
        **common(data),
        prompt=data.prompt,
        suffix=data.suffix,
        system=data.system,
        template=data.template,
        context=tuple(data.context),
        raw=data.raw,
        images=tuple(data.images),
    )
    if not data.model:
        raise ModelNotFound("model '' not found")

    def event(reply: core.Reply) -> wire.GenerateResponse:
        return wire.GenerateResponse(
            model=data.model,
            created_at=utc_now(),
            response=reply.text,
            thinking=reply.thinking,
            done=reply.done,
            context=list(reply.context),
            tool_calls=tool_calls(reply),
            **ending(reply),
        )

    return answer(service.generate(request), event, stream=data.stream)


@post("/api/chat", status_code=200, dto=GoJSON[wire.ChatRequest], operation_class=StreamedOperation, responses=ERRORS)
async def chat(data: JSONBody[wire.ChatRequest], service: Injected) -> Response[wire.ChatResponse]:
    """Continue a conversation; without messages, load the model or, with `keep_alive` 0, unload it."""
    request = core.ChatRequest(
        **common(data),
        messages=tuple(message(each) for each in data.messages),
        tools=tuple(msgspec.to_builtins(tool) for tool in data.tools),
    )
    if not data.model.strip():
        raise InvalidRequest("model is required")

    def event(reply: core.Reply) -> wire.ChatResponse:
        said = wire.Message(
            role="" if reply.rendered is not None else "assistant",
            content=reply.text,
            thinking=reply.thinking,
            tool_calls=tool_calls(reply),
        )
        return wire.ChatResponse(model=data.model, created_at=utc_now(), message=said, done=reply.done, **ending(reply))

    return answer(service.chat(request), event, stream=data.stream)


def common(data: wire.InferenceRequest) -> dict[str, Any]:
    """The arguments of core.InferenceRequest. Raises InvalidRequest."""
    if not 0 <= data.top_logprobs <= 20:
        raise InvalidRequest("top_logprobs must be between 0 and 20")
    return {
        "model": data.model,
        "options": data.options,
        "keep_alive_s": cast("float | None", data.keep_alive),
        "think": data.think,
        "format": None if data.format == "" else data.format,
        "truncate": data.truncate is not False,
        "shift": data.shift,
        "logprobs": data.logprobs,
        "top_logprobs": data.top_logprobs,
        "render_only": data.debug_render_only,
    }


def message(sent: wire.Message) -> core.Message:
    """A message as the core knows it; roles are lower case."""
    return core.Message(
        role=sent.role.lower(),
        content=sent.content,
        thinking=sent.thinking,
        images=tuple(sent.images),
        tool_calls=tuple(msgspec.to_builtins(call) for call in sent.tool_calls),
        tool_name=sent.tool_name,
        tool_call_id=sent.tool_call_id,
    )


def tool_calls(reply: core.Reply | core.Message) -> list[wire.ToolCall]:
    """Tool calls in the wire's key order."""
    return [msgspec.convert(call, wire.ToolCall) for call in reply.tool_calls]


def ending(reply: core.Reply) -> dict[str, Any]:
    """The fields after the text that both kinds of reply have; most are there only at the end."""
    fields: dict[str, Any] = {"logprobs": [logprob(each) for each in reply.logprobs]}
    if reply.done_reason:
        fields["done_reason"] = reply.done_reason.value
    if reply.rendered is not None:
        fields["debug_info"] = wire.DebugInfo(rendered_template=reply.rendered, image_count=reply.images)
    if metrics := reply.metrics:  # clients take a duration of 0 for a missing one
        fields |= {
            "total_duration": max(1, metrics.total_ns),
            "load_duration": max(1, metrics.load_ns),
            "prompt_eval_count": metrics.prompt_tokens,
            "prompt_eval_duration": max(1, metrics.prompt_ns),
            "eval_count": metrics.generated_tokens,
            "eval_duration": max(1, metrics.generate_ns),
        }
    return fields


def logprob(token: core.TokenLogprob) -> wire.Logprob:
    """A token with its alternatives, and the bytes of each."""
    top = [wire.TopLogprob(token=t.token, logprob=t.logprob, bytes=list(t.token.encode())) for t in token.top]
    return wire.Logprob(token=token.token, logprob=token.logprob, bytes=list(token.token.encode()), top_logprobs=top)


def answer(
    replies: AsyncGenerator[core.Reply, None], event: Callable[[core.Reply], T], *, stream: bool | None
) -> Response[T]:
    """Stream the replies unless `stream` is False; loading, unloading and rendering are never streamed."""
    if stream is not False:
        return streaming.lines(replies, event, is_whole=is_whole)

    async def joined() -> Response[T]:
        async with aclosing(replies):
            return JSONResponse(event(join([reply async for reply in replies])), status_code=200)

    return streaming.whole(joined)


def is_whole(reply: core.Reply) -> bool:
    """Whether a first reply is all that there will be."""
    return reply.done_reason in (core.DoneReason.LOAD, core.DoneReason.UNLOAD) or reply.rendered is not None


def join(replies: Sequence[core.Reply]) -> core.Reply:
    """One reply with everything that was said; for the rest, the last counts."""
    return replace(
        replies[-1],
        text="".join(reply.text for reply in replies),
        thinking="".join(reply.thinking for reply in replies),
        tool_calls=tuple(call for reply in replies for call in reply.tool_calls),
        logprobs=tuple(each for reply in replies for each in reply.logprobs),
    )
