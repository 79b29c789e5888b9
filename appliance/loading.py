"""A bundle on disk to a runner in memory. All of it blocks, so the manager calls it in a thread."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path

from appliance.bundle import Bundle
from appliance.config import AUTO, Settings
from appliance.engine.constrain import Grammars
from appliance.engine.desk import Desk
from appliance.engine.encoder import open_encoder
from appliance.engine.engine import Engine
from appliance.engine.ort import open_backend
from appliance.engine.providers import Provider, thread_count
from appliance.engine.snapshot import open_folder
from appliance.memory import Grant, page_out_code, trim
from appliance.ops.load import Others, contended, load_average
from appliance.options import Options
from appliance.prompt.tokenizer import Tokenizer
from appliance.runner import DecoderRunner, EncoderRunner, LoadOptions, Runner
from appliance.store.store import StoredModel

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Plan:
    """A load that was decided on: which bundle, for contexts of how many tokens, with how much memory.

    `provider` is the one to run it on, whatever `options` would allow besides.
    """

    model: StoredModel
    folder: Path
    bundle: Bundle
    options: LoadOptions
    context: int
    grant: Grant
    provider: Provider


def load_options(settings: Settings, options: Options) -> LoadOptions:
    """What the settings and a request make of a session."""
    provider = "cpu" if options.num_gpu == 0 else settings.provider
    threads = settings.threads
    if options.num_thread and options.num_thread > 0:  # from anyone: a thread costs memory, used or not
        threads = min(options.num_thread, os.cpu_count() or 1)
    return LoadOptions(threads, provider)


def open_runner(settings: Settings, plan: Plan) -> Runner:
    """Load the bundle. Raises ModelFileError when no execution provider can run it."""
    others = Others()
    tokenizer = Tokenizer.load(plan.folder, plan.bundle)  # takes long enough to see what others do meanwhile
    spin = spins(settings, plan.options.threads, others.cores())
    make = open_decoder if plan.bundle.kind == "decoder" else open_embedder
    runner = make(settings, plan, tokenizer, spin)
    trim()
    if not plan.provider.on_card:  # whose libraries are large, and go on being read
        page_out_code()
    return runner


def open_decoder(settings: Settings, plan: Plan, tokenizer: Tokenizer, spin: bool) -> DecoderRunner:
    """A model that writes text, with its engine running."""
    bundle, options = plan.bundle, plan.options
    backend = open_backend(
        plan.folder,
        bundle,
        slots=plan.grant.slots,
        setting=plan.provider.setting,
        threads=options.threads,
        spin=spin,
        context=plan.context,
    )
    engine = Engine(
        backend,
        tokenizer,
        eos=bundle.eos_tokens,
        chunk_tokens=settings.prefill_chunk_tokens,
        step_s=settings.step_ms / 1000,
        max_waiting=settings.max_queue,
        prefix_cache_bytes=plan.grant.cache,
        speculate=settings.speculate,
        snapshots=open_folder(plan.folder, backend.provider, settings.prefix_snapshot_bytes, settings.disk_floor_bytes),
        name=plan.model.name.short,
    )
    return DecoderRunner(
        model=plan.model,
        folder=plan.folder,
        bundle=bundle,
        tokenizer=tokenizer,
        load_options=options,
        reserved_bytes=plan.grant.reserved_bytes,
        on_card=plan.provider.on_card,
        keep_alive_s=settings.keep_alive_s,
        context_length=plan.context,
        engine=engine,
        grammars=Grammars(tokenizer, bundle.vocab_size, bundle.eos_tokens),
        reserved_tokens=plan.context,
    )


def open_embedder(settings: Settings, plan: Plan, tokenizer: Tokenizer, spin: bool) -> EncoderRunner:
    """A model that embeds or ranks texts."""
    options, name = plan.options, plan.model.name.short
    encoder = open_encoder(
        plan.folder, plan.bundle, setting=plan.provider.setting, threads=options.threads, spin=spin, name=name
    )
    return EncoderRunner(
        model=plan.model,
        folder=plan.folder,
        bundle=plan.bundle,
        tokenizer=tokenizer,
        load_options=options,
        reserved_bytes=plan.grant.reserved_bytes,
        on_card=plan.provider.on_card,
        keep_alive_s=settings.keep_alive_s,
        context_length=plan.context,
        desk=Desk(encoder, slots=plan.grant.slots, max_waiting=settings.max_queue, name=name),
        reserved_tokens=plan.context,
    )


def spins(settings: Settings, threads: int, others_cores: float) -> bool:
    """Whether idle kernel threads spin: not where that takes processors from processes that need them."""
    if settings.spinning != AUTO:
        return settings.spinning == "on"
    busy = contended(thread_count(threads), others_cores, load_average(), os.cpu_count() or 1)
    if busy:
        log.warning("other processes use %.1f processors: threads wait without spinning", others_cores)
    return not busy
