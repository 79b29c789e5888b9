"""From a request and a loaded model to the prompt that runs."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

from appliance.bundle import Bundle
from appliance.core import ChatRequest, GenerateRequest, InferenceRequest, Message, Think
from appliance.errors import InvalidRequest, InvalidTemplate, PromptTooLong
from appliance.generation import Prompt
from appliance.options import Options
from appliance.prompt.chat import (
    GoPrompt,
    JinjaPrompt,
    PromptTemplate,
    Tools,
    assemble_history,
    images_in,
    numbered,
    trim_history,
    without_thoughts,
)
from appliance.prompt.gotemplate import GoTemplate
from appliance.prompt.jinja import JinjaTemplate
from appliance.prompt.parsers import family_of
from appliance.prompt.parsers.harmony import HARMONY, with_identifiers
from appliance.runner import DecoderRunner
from appliance.store.store import StoredModel

log = logging.getLogger(__name__)

DEFAULT_TEMPLATE = "{{ .Prompt }}"
COMPILED_TEMPLATES = 32
GPT_OSS = ("gptoss", "gpt-oss")  # model families whose highest level of thinking is "high"


def chat_prompt(
    model: StoredModel, request: ChatRequest, runner: DecoderRunner, options: Options, num_ctx: int
) -> Prompt:
    """The prompt of a conversation. Raises PromptTooLong, InvalidTemplate.

    Old turns are dropped (and the log says so) while the rendering does not fit, unless `truncate` is off.
    """
    template = template_of(model, runner)
    messages = assemble_history(model.system, model.messages, request.messages)
    if model.facts().family == "qwen3" or model.name.model == "deepseek-r1":
        messages = without_thoughts(messages)
    think, tools = thinking(model, request), request.tools
    if family_of(template, model.parser) == HARMONY:
        messages, tools = with_identifiers(messages, tools)
    return conversation(template, messages, request, runner, num_ctx, options, tools=tools, think=think)


def generate_prompt(
    model: StoredModel, request: GenerateRequest, runner: DecoderRunner, options: Options, num_ctx: int
) -> Prompt:
    """The prompt of a completion: verbatim, filled in the middle, or as a conversation of one turn."""
    if request.raw:
        tokens = runner.tokenizer.encode(request.prompt, add_bos=True)
        fitting = cut(tokens, request, runner, options, num_ctx)
        return Prompt(request.prompt, fitting, guarded=True, images=len(request.images))
    template = compiled(request.template) if request.template else template_of(model, runner)
    think = thinking(model, request)
    turn = Message("user", request.prompt, images=request.images)
    if request.suffix:
        if not isinstance(template, GoPrompt):
            template = compiled(model.template)
            assert isinstance(template, GoPrompt)
        text = template.render_fim(numbered([turn])[0].content, request.suffix, think)
        tokens = runner.tokenizer.encode(text, add_bos=True)
        fitting = cut(tokens, request, runner, options, num_ctx)
        return Prompt(text, fitting, guarded=True, context=True, images=len(request.images))
    system = request.system or model.system
    turns = [Message("system", system)] if system else []
    turns += () if request.context else model.messages
    turns.append(turn)
    prompt = conversation(template, turns, request, runner, num_ctx, options, think=think, earlier=request.context)
    return replace(prompt, guarded=True, context=True)


def conversation(
    template: PromptTemplate,
    messages: Sequence[Message],
    request: ChatRequest | GenerateRequest,
    runner: DecoderRunner,
    num_ctx: int,
    options: Options,
    *,
    tools: Tools = (),
    think: Think | None = None,
    earlier: Sequence[int] = (),
) -> Prompt:
    """Render `messages` after the tokens `earlier`, dropping old turns that do not fit."""
    if any(not 0 <= token < runner.bundle.vocab_size for token in earlier):
        raise InvalidRequest(f"context holds a token outside of the model's vocabulary of {runner.bundle.vocab_size}")
    rendered: dict[tuple[int, ...], tuple[str, list[int]]] = {}

    def render(turns: Sequence[Message]) -> tuple[str, list[int]]:
        key = tuple(map(id, turns))  # messages may hold what cannot be hashed
        if key not in rendered:
            text = template.render(numbered(turns), tools=tools, think=think)
            rendered[key] = text, [*earlier, *runner.tokenizer.encode(text, add_bos=not earlier)]
        return rendered[key]

    kept = messages
    if request.truncate:
        kept = trim_history(messages, lambda turns: len(render(turns)[1]) <= num_ctx)
        if len(kept) < len(messages):
            log.warning("dropped the %d oldest messages to fit %d tokens", len(messages) - len(kept), num_ctx)
    text, tokens = render(kept)
    text, images = runner.tokenizer.written(earlier) + text, images_in(kept)
    guarded = isinstance(template, GoPrompt)
    if guarded:
        return Prompt(text, cut(tokens, request, runner, options, num_ctx), guarded=True, images=images)
    if len(tokens) > num_ctx:
        raise PromptTooLong(len(tokens), num_ctx)
    return Prompt(text, tuple(tokens), images=images)


def thinking(model: StoredModel, request: InferenceRequest) -> Think | None:
    """How the model is to think: as the request says, else it does if it can. None: it knows no thinking."""
    think = request.think
    if think is None:
        return True if "thinking" in model.capabilities() else None
    return "high" if think == "max" and model.facts().family in GPT_OSS else think


def cut(
    tokens: Sequence[int],
    request: ChatRequest | GenerateRequest,
    runner: DecoderRunner,
    options: Options,
    num_ctx: int,
) -> tuple[int, ...]:
    """A completion prompt within num_ctx-1 tokens: its middle goes (and the log says so), if shifting is allowed.

    Raises PromptTooLong if it is not, or if `truncate` is off.
    """
    limit = num_ctx - 1
    if len(tokens) <= limit:
        return tuple(tokens)
    if request.shift is False or not request.truncate:
        raise PromptTooLong(len(tokens), limit)
    wanted = kept_tokens(options.sampling.num_keep, runner.bundle)
    keep = min(len(tokens) if wanted < 0 else wanted, num_ctx - 2)
    total = num_ctx - max((num_ctx - keep) // 2, 1)
    log.warning("cut a prompt of %d tokens to %d: the first %d and the last ones", len(tokens), total, keep)
    return (*tokens[:keep], *tokens[len(tokens) - (total - keep) :])


def kept_tokens(num_keep: int, bundle: Bundle) -> int:
    """How many tokens from the start survive a cut or a shift: the BOS counts on top; negative is the whole prompt."""
    return num_keep + bundle.add_bos if num_keep >= 0 else num_keep


def template_of(model: StoredModel, runner: DecoderRunner) -> JinjaPrompt | GoPrompt:
    """The template that builds this model's prompts: its own Go template, else the Jinja one of its file."""
    bundle, text = runner.bundle, runner.tokenizer.spelling
    return compiled(
        model.template if model.uses_go_template else "",
        model.chat_template,
        text(bundle.bos_token),
        text(next(iter(bundle.eos_tokens), None)),
    )


@lru_cache(COMPILED_TEMPLATES)
def compiled(template: str, chat_template: str = "", bos: str = "", eos: str = "") -> JinjaPrompt | GoPrompt:
    """A prompt builder, compiled once: the Go template's, else the chat template's, else the bare prompt."""
    if template or not chat_template:
        return GoPrompt(GoTemplate(template or DEFAULT_TEMPLATE))
    return JinjaPrompt(JinjaTemplate(chat_template), bos, eos)


def check_template(source: str) -> None:
    """Raise InvalidRequest if `source` is no Go template."""
    try:
        compiled(source)
    except InvalidTemplate as error:
        raise InvalidRequest(f"template error: {error}") from error
