"""GET /api/stats: what the server is doing. Ours, not Ollama's, so no field is ever left out."""

from __future__ import annotations

from typing import Annotated

from litestar import Response, get
from msgspec import Meta, Struct

from api.encode import JSONResponse
from api.service import Injected
from appliance import __version__, core

Count = Annotated[int, Meta(ge=0)]


class Slots(Struct):
    """How many requests the model can run at a time, and how many it runs."""

    total: Count
    busy: Count


class Queued(Struct):
    """A request that waits for a slot. The first in the queue has position 1."""

    position: Count
    prompt_tokens: Count


class Tokens(Struct):
    """Totals since the model was loaded, of requests that got a slot."""

    prompt: Count
    cached: Annotated[int, Meta(description="The part of `prompt` that needed no evaluation")]
    evaluated: Annotated[int, Meta(description="All tokens that ran through the model")]
    generated: Count


class Speculation(Struct):
    """Tokens that were guessed without the model, and how many of them it confirmed."""

    drafted: Count
    accepted: Count


class PrefixCache(Struct):
    """Past prompts in memory besides those in the slots, and why others are there no more."""

    bytes: Count
    evictions: dict[str, int]


class ModelStats(Struct):
    """One loaded model. `waiting` counts all requests without a slot, `queue` those already in order."""

    name: str
    slots: Slots
    waiting: Count
    queue: list[Queued]
    tokens: Tokens
    speculation: Speculation
    prefix_cache: PrefixCache


class StatsResponse(Struct):
    """GET /api/stats: the appliance's own version, and the model that stays longest first."""

    version: str
    models: list[ModelStats]


@get("/api/stats")
async def stats(service: Injected) -> Response[StatsResponse]:
    """What each loaded model does: slots, queue, token totals, speculation, prefix cache. Not part of Ollama's API."""
    engines = await service.stats()
    return JSONResponse(StatsResponse(__version__, [model_stats(name, engine) for name, engine in engines.items()]))


def model_stats(name: str, engine: core.EngineStats) -> ModelStats:
    """A model's figures, on the wire."""
    return ModelStats(
        name=name,
        slots=Slots(engine.slots, engine.busy_slots),
        waiting=engine.waiting,
        queue=[Queued(position, tokens) for position, tokens in enumerate(engine.queue, start=1)],
        tokens=Tokens(
            prompt=engine.prompt_tokens,
            cached=engine.cached_tokens,
            evaluated=engine.evaluated_tokens,
            generated=engine.generated_tokens,
        ),
        speculation=Speculation(engine.drafted_tokens, engine.accepted_tokens),
        prefix_cache=PrefixCache(engine.prefix_cache_bytes, dict(engine.prefix_evictions)),
    )
