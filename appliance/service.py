"""What the appliance can do, in core nouns: every API dialect calls this and nothing below it.

The order of the checks and the texts of the errors are Ollama's.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from appliance import options
from appliance.caretaker import Caretaker
from appliance.choice import bundle_facts, choose, shortage
from appliance.cloud import CloudSwitch
from appliance.config import Settings
from appliance.conversion import Converter, convert_adapter
from appliance.conversion_facts import BundleFacts
from appliance.core import (
    ChatRequest,
    CreateRequest,
    DoneReason,
    Embeddings,
    EmbedRequest,
    EngineStats,
    GenerateRequest,
    LoadedModel,
    Message,
    ModelDetails,
    ModelSummary,
    Progress,
    Ranking,
    Reply,
    RerankRequest,
    TransferRequest,
)
from appliance.embedding import embed, embedder, rerank, reranker
from appliance.errors import Forbidden, InvalidOption, InvalidRequest, ModelNotFound, NoEmbeddings, Unsupported
from appliance.families import PARSERS
from appliance.formatted import formatted
from appliance.generation import Prompt, Stopwatch, generate
from appliance.manager import Manager
from appliance.parsing import calls_of, parsed, parser_of
from appliance.prompting import chat_prompt, check_template, generate_prompt, kept_tokens, thinking
from appliance.runner import DecoderRunner, Runner
from appliance.stepping import stepped
from appliance.store import create as creation
from appliance.store.adapters import add_converted, peft_folder
from appliance.store.library import Library
from appliance.store.names import is_cloud
from appliance.store.store import Store, StoredModel
from appliance.support import check_sight, check_support, served
from appliance.transfers import Transfers

log = logging.getLogger(__name__)

OLLAMA_API_VERSION = "0.33.0"
"""The version of Ollama whose API this server speaks; clients switch features on by it."""

CLOUD_INFERENCE = "ollama cloud is disabled: remote model is unavailable"
CLOUD_DETAILS = "ollama cloud is disabled: remote model details are unavailable"

Build = Callable[[DecoderRunner, options.Options, int], Prompt]
"""Makes the prompt for a loaded model, given the options and the context length in tokens."""


class Service:
    """One store, one manager, and the requests on them. Use from one event loop."""

    version = OLLAMA_API_VERSION

    def __init__(self, settings: Settings, store: Store, cloud_switch: CloudSwitch = "none") -> None:
        self.cloud_switch: CloudSwitch = cloud_switch
        self._settings = settings
        self._store = store
        self._converter = Converter(settings.disk_floor_bytes)
        self._manager = Manager(settings, self._converter)
        self._transfers = Transfers(settings, store, OLLAMA_API_VERSION, self.create)
        self.library = Library(store)
        self.caretaker = Caretaker(store, self._manager.choice, lambda: {each.folder for each in self._manager.runners})

    async def close(self) -> None:
        """End what runs and unload every model."""
        await self._manager.close()
        await self._transfers.close()

    async def chat(self, request: ChatRequest) -> AsyncGenerator[Reply, None]:
        """Continue a conversation. Closing the generator cancels it."""
        stopwatch = Stopwatch()
        model = await self._model(request.model)
        if not request.messages and request.keep_alive_s == 0:
            yield await self._unload(model)
            return
        check_support(model, request, "chat")
        if request.tools and "tools" not in model.capabilities():
            raise Unsupported(f"{model.name.full} does not support tools")
        check_sight(model, request, (*model.messages, *request.messages))
        build = partial(chat_prompt, model, request) if request.messages else None
        async with contextlib.aclosing(self._infer(model, request, build, stopwatch)) as replies:
            async for reply in replies:
                yield reply

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Reply, None]:
        """Continue a prompt. Closing the generator cancels it."""
        stopwatch = Stopwatch()
        model = await self._model(request.model)
        if not request.prompt and request.keep_alive_s == 0:
            yield await self._unload(model)
            return
        if "image" in model.capabilities():
            raise Unsupported("image generation models are not currently supported")
        if request.raw and (request.template or request.system or request.context):
            raise InvalidRequest("raw mode does not support template, system, or context")
        check_support(model, request, "generate")
        if request.suffix and "insert" not in model.capabilities():
            raise Unsupported(f"{model.name.full} does not support insert")
        check_sight(model, request, (Message("user", images=request.images), *model.messages))
        build = partial(generate_prompt, model, request) if request.prompt else None
        async with contextlib.aclosing(self._infer(model, request, build, stopwatch)) as replies:
            async for reply in replies:
                yield reply

    async def embed(self, request: EmbedRequest) -> Embeddings:
        """The embeddings of some texts; of none, none, but the model is loaded. Cancelling ends it."""
        stopwatch = Stopwatch()
        try:
            model = await self._model(request.model)
        except ModelNotFound as error:
            if not request.model.strip():
                raise
            raise ModelNotFound(f'model "{request.model}" not found, try pulling it first') from error
        if request.inputs and "embedding" not in model.capabilities():
            raise NoEmbeddings(request.model)
        async with self._lease(model, request) as (runner, limit):
            stopwatch.loaded()
            if not request.inputs:
                return Embeddings()
            embeddings = await embed(embedder(runner, request.model), request, limit)
        return replace(embeddings, total_ns=stopwatch.total_ns(), load_ns=stopwatch.load_ns())

    async def rerank(self, request: RerankRequest) -> Ranking:
        """Documents by how well they answer a query. Cancelling ends it."""
        model = await self._model(request.model)
        if "rerank" not in model.capabilities():
            raise Unsupported(f'"{request.model}" does not support rerank')
        async with self._lease(model, request) as (runner, limit):
            return await rerank(reranker(runner, request.model), request, limit)

    async def models(self) -> list[ModelSummary]:
        """Installed models, newest first."""
        summaries = await asyncio.to_thread(self._store.summaries)
        return [replace(row, capabilities=served(row.capabilities)) for row in summaries]

    async def show(
        self, model: str, *, system: str = "", options: Mapping[str, Any] | None = None, verbose: bool = False
    ) -> ModelDetails:
        """Everything about one model; `system` and `options` are shown as if they were the model's own."""
        stored = await self._model(model, CLOUD_DETAILS, canonical=True)
        details = await asyncio.to_thread(stored.details, system, options, verbose)
        bundle = await asyncio.to_thread(self._bundle, stored)
        return replace(details, capabilities=served(details.capabilities), bundle=bundle)

    def _bundle(self, model: StoredModel) -> BundleFacts | None:
        """What the model was converted to, if it was."""
        if not model.model_digest:
            return None
        try:
            return bundle_facts(self._manager.choice(model))
        except InvalidOption as error:  # in a store from elsewhere
            log.warning("%s: %s", model.name.short, error)
            return None

    async def loaded(self) -> list[LoadedModel]:
        """Loaded models, the one that stays longest first."""
        return [
            LoadedModel(
                name=runner.model.name.short,
                size=runner.reserved_bytes,
                size_vram=runner.vram_bytes,
                digest=runner.model.digest,
                facts=runner.model.facts(),
                expires_at=runner.expires_at,
                context_length=runner.context_length,
            )
            for runner in self._manager.runners
        ]

    async def stats(self) -> dict[str, EngineStats]:
        """What the engine of each loaded model does, by the model's name."""
        return {runner.model.name.short: runner.stats() for runner in self._manager.runners}

    async def copy(self, source: str, destination: str) -> None:
        """Give an installed model a second name."""
        await asyncio.to_thread(self._store.copy, source, destination)

    async def delete(self, model: str) -> None:
        """Remove a name, and what no other name uses."""
        await asyncio.to_thread(self._store.delete, model)

    async def create(self, request: CreateRequest) -> AsyncGenerator[Progress, None]:
        """Make a model, convert it, and only then let it be seen. Closing the generator abandons it.

        A source that is not installed is pulled first, and stays.
        """
        if request.template:
            check_template(request.template)
        if request.parser and request.parser not in PARSERS:
            raise InvalidRequest(f'unknown parser "{request.parser}", known are: {", ".join(PARSERS)}')
        if await asyncio.to_thread(creation.lacks_source, self._store, request):
            async with contextlib.aclosing(self._transfers.pull_source(request.source)) as steps:
                async for progress in steps:
                    yield progress
        draft: creation.Draft | None = None
        async for step in stepped(creation.assemble(self._store, request)):
            if isinstance(step, creation.Draft):
                draft = step
            else:
                yield step
        assert draft is not None
        if draft.peft:
            yield Progress("converting adapter")
            await self._convert_adapter(draft)
        network, store = draft.network, self._store
        footprint = store.headers.facts(network).footprint
        choice = choose(self._settings, network.digest, draft.parameters, footprint, store.derived)
        if warning := shortage(self._settings, draft.parameters, footprint, choice):
            yield Progress(warning)
        source = await asyncio.to_thread(network.source, store.blobs, store.derived)
        adapter = network.adapter_file(store.blobs)
        wanted = choice.recipe, choice.kv, choice.target
        ensure = self._converter.ensure(source, network.digest, choice.folder, *wanted, adapter)
        async with contextlib.aclosing(ensure) as steps:
            async for progress in steps:
                yield draft.conversion(progress)
        async for step in stepped(creation.commit(self._store, draft)):
            yield step

    def pull(self, request: TransferRequest) -> AsyncGenerator[Progress, None]:
        """Fetch a model from where its name says. Closing the generator leaves what has come for the next time."""
        return self._transfers.pull(request)

    def push(self, request: TransferRequest) -> AsyncGenerator[Progress, None]:
        """Send a model to the registry that its name says. Closing the generator ends it."""
        return self._transfers.push(request)

    async def _convert_adapter(self, draft: creation.Draft) -> None:
        """Make a layer of the draft's files of PEFT's."""
        store = self._store
        base = await asyncio.to_thread(draft.network.source, store.blobs, store.derived)
        with peft_folder(store, draft.peft) as folder:
            target = folder / "converted.gguf"
            await convert_adapter(folder, base, target)
            layer = await asyncio.to_thread(add_converted, store, target)
        draft.parts.append(creation.Part(layer))

    async def has_blob(self, digest: str) -> bool:
        """Whether a blob is in the store; raises InvalidRequest for a malformed digest."""
        return await asyncio.to_thread(self._store.blobs.has, digest)

    async def put_blob(self, digest: str, chunks: AsyncIterable[bytes], length: int | None = None) -> bool:
        """Store an upload of `length` bytes, if that is known. False: it was there and nothing was read.

        Raises DigestMismatch, NotEnoughDisk.
        """
        if await self.has_blob(digest):
            return False
        writer = self._store.blobs.writer(digest, length)  # opens a file, and nothing may come between it and `try`
        try:
            async for chunk in chunks:
                await asyncio.to_thread(writer.write, chunk)
            await asyncio.to_thread(writer.commit)
        finally:
            writer.abort()
        return True

    @contextlib.asynccontextmanager
    async def _lease(
        self, model: StoredModel, request: EmbedRequest | RerankRequest
    ) -> AsyncGenerator[tuple[Runner, int], None]:
        """Hold the model, and tell how many tokens a text may have.

        Any `num_ctx` counts here, also one that is too small for anything.
        """
        model.require_runnable()
        chosen = options.merge(model.parameters, request.options, logprobs=False, top=0)
        async with self._manager.lease(model, chosen, request.keep_alive_s) as runner:
            context = self._manager.reserve(runner, chosen)
            yield runner, context if chosen.num_ctx is None else min(chosen.num_ctx, context)

    async def _infer(
        self,
        model: StoredModel,
        request: ChatRequest | GenerateRequest,
        build: Build | None,
        stopwatch: Stopwatch,
    ) -> AsyncGenerator[Reply, None]:
        """Hold the model, build the prompt, run it. No `build`: only load."""
        model.require_runnable()
        chosen = options.merge(model.parameters, request.options, logprobs=request.logprobs, top=request.top_logprobs)
        async with self._manager.lease(model, chosen, request.keep_alive_s) as runner:
            stopwatch.loaded()
            num_ctx = self._manager.reserve(runner, chosen)
            if build is None:
                yield Reply(done=True, done_reason=DoneReason.LOAD)
                return
            if not isinstance(runner, DecoderRunner):  # an encoder whose file does not say so
                raise Unsupported(f'"{request.model}" does not support completion')
            prompt = await asyncio.to_thread(build, runner, chosen, num_ctx)
            if request.render_only:
                yield Reply(rendered=prompt.text, images=prompt.images)
                return
            schema = schema_of(request.format)
            constraint = await asyncio.to_thread(runner.grammars.constraint, schema) if schema is not None else None
            sampling = replace(chosen.sampling, num_keep=kept_tokens(chosen.sampling.num_keep, runner.bundle))
            shift = request.shift is not False
            parser = parser_of(model, request, runner, prompt)
            run = partial(
                generate,
                runner.engine,
                runner.tokenizer,
                num_ctx=num_ctx,
                shift=shift,
                shown=runner.tokenizer.marks(parser.markup),
                stopwatch=stopwatch,
            )
            if constraint is None:
                free = run(prompt, sampling, constraint=calls_of(model, request, runner, prompt))
                answer = parsed(free, parser, calls_last=isinstance(request, GenerateRequest))
            else:
                thinks = isinstance(request, ChatRequest) and bool(thinking(model, request))
                answer = formatted(
                    run, runner.tokenizer, parser, prompt, sampling, constraint, num_ctx=num_ctx, thinks=thinks
                )
            async with contextlib.aclosing(answer) as replies:
                async for reply in replies:
                    yield reply

    async def _unload(self, model: StoredModel) -> Reply:
        await self._manager.unload(model)
        return Reply(done=True, done_reason=DoneReason.UNLOAD)

    async def _model(self, reference: str, cloud: str = CLOUD_INFERENCE, *, canonical: bool = False) -> StoredModel:
        """The installed model a client means. Raises InvalidName, ModelNotFound, Forbidden."""
        if not reference.strip():
            raise ModelNotFound(f"model '{reference}' not found")
        if is_cloud(reference):
            raise Forbidden(cloud)
        try:
            model = await asyncio.to_thread(self._store.model, reference)
        except ModelNotFound as error:
            if canonical:
                raise ModelNotFound(f"model '{self._store.resolve(reference).short}' not found") from error
            raise
        if model.remote:
            raise Forbidden(cloud)
        return model


def schema_of(wanted: Any) -> Mapping[str, Any] | None:
    """The JSON schema that `format` asks for, None for free text. Raises InvalidOption, with Ollama's text."""
    if wanted is None or wanted == "":
        return None
    if wanted == "json":
        return {"type": "object"}
    if isinstance(wanted, Mapping):
        return wanted
    quoted = json.dumps(json.dumps(wanted, ensure_ascii=False), ensure_ascii=False)
    raise InvalidOption(f'invalid format: {quoted}; expected "json" or a valid JSON Schema object')
