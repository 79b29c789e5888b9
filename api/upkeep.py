"""Care for the store: /api/df, /api/prune and /api/verify. Ours, not Ollama's, so no field is ever left out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import asdict
from typing import Annotated, Any

from litestar import Response, get, post
from litestar.params import JSONBody
from msgspec import Meta, Struct

from api import streaming
from api.encode import JSONResponse
from api.ollama.routes import ERRORS, StreamedOperation
from api.requests import GoJSON
from api.service import Injected
from appliance.core import Progress
from appliance.stepping import stepped
from appliance.upkeep import DiskUsage, Verified

Bytes = Annotated[int, Meta(ge=0)]


class PruneRequest(Struct):
    """POST /api/prune."""

    dry_run: Annotated[bool, Meta(description="Only list what would be removed")] = False


class VerifyRequest(Struct):
    """POST /api/verify."""

    remove: Annotated[bool, Meta(description="Remove damaged blobs and bundles, but for loaded bundles")] = False
    dry_run: Annotated[bool, Meta(description="Only say what `remove` would remove")] = False
    stream: bool | None = None


class Leftover(Struct):
    """A file or folder, by its path in the models folder, and why nothing uses it."""

    name: str
    size: Bytes
    reason: str


class PruneResponse(Struct):
    """What was removed. `kept` is a reason to keep all blobs and bundles, "" if there is none."""

    dry_run: bool
    size: Bytes
    leftovers: list[Leftover]
    kept: str


class Flaw(Struct):
    """Something damaged, by its path in the models folder; the models that need it, and how to mend them."""

    name: str
    problem: str
    models: list[str]
    mend: str
    removed: bool


class VerifyResponse(Struct):
    """A line of the stream. Bytes so far of the whole; the last line, with status "success", has the result."""

    status: str
    total: Bytes = 0
    completed: Bytes = 0
    blobs: int = 0
    bundles: int = 0
    flaws: list[Flaw] = []


@get("/api/df")
async def df(service: Injected) -> Response[DiskUsage]:
    """What the models take of the disk, and what is left of it, in bytes. Not part of Ollama's API."""
    return JSONResponse(await asyncio.to_thread(service.caretaker.disk_usage))


@post("/api/prune", status_code=200, dto=GoJSON[PruneRequest], responses=ERRORS)
async def prune(data: JSONBody[PruneRequest], service: Injected) -> Response[PruneResponse]:
    """Remove what no model uses and what was left half made, or only list it. Not part of Ollama's API."""
    pruned = await asyncio.to_thread(service.caretaker.prune, data.dry_run)
    leftovers = [Leftover(**asdict(each)) for each in pruned.leftovers]
    return JSONResponse(PruneResponse(data.dry_run, pruned.size, leftovers, pruned.kept), status_code=200)


@post("/api/verify", status_code=200, dto=GoJSON[VerifyRequest], operation_class=StreamedOperation, responses=ERRORS)
async def verify(data: JSONBody[VerifyRequest], service: Injected) -> Response[VerifyResponse]:
    """Read everything in the store and say what is damaged, or remove that too. Not part of Ollama's API."""
    steps: AsyncGenerator[Any, None] = stepped(service.caretaker.verify(remove=data.remove, dry_run=data.dry_run))
    return streaming.progress(steps, verify_event, stream=data.stream is not False)


def verify_event(step: Progress | Verified) -> VerifyResponse:
    """A step on the wire."""
    if isinstance(step, Progress):
        return VerifyResponse(step.status, step.total, step.completed)
    flaws = [Flaw(**asdict(each)) for each in step.flaws]
    return VerifyResponse("success", step.size, step.size, step.blobs, step.bundles, flaws)


ROUTES = (df, prune, verify)
