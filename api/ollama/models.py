"""Models installed and loaded: /api/tags, ps, show, copy, delete."""

from __future__ import annotations

from litestar import MediaType, Response, delete, get, post
from litestar.handlers import route
from litestar.params import JSONBody

from api.encode import JSONResponse, local_time
from api.ollama import wire
from api.ollama.inference import tool_calls
from api.ollama.routes import ERRORS
from api.requests import BodyRequest, GoJSON
from api.service import Injected
from appliance import conversion_facts, core
from appliance.errors import InvalidRequest

COPILOT = "GitHubCopilotChat/"


@route("/api/tags", http_method=["GET", "HEAD"], status_code=200)
async def tags(service: Injected) -> Response[wire.ListResponse]:
    """The installed models, newest first."""
    models = sorted(await service.models(), key=lambda model: model.modified_at, reverse=True)
    rows = [
        wire.InstalledModel(
            name=model.name,
            model=model.name,
            modified_at=local_time(model.modified_at),
            size=model.size,
            digest=model.digest,
            details=details(model.facts, lengths=True),
            capabilities=list(model.capabilities),
        )
        for model in models
    ]
    return JSONResponse(wire.ListResponse(models=rows))


@get("/api/ps")
async def ps(service: Injected) -> Response[wire.ProcessResponse]:
    """The loaded models, the one that stays longest first."""
    models = sorted(await service.loaded(), key=lambda model: model.expires_at, reverse=True)
    rows = [
        wire.RunningModel(
            name=model.name,
            model=model.name,
            size=model.size,
            digest=model.digest,
            details=details(model.facts),
            expires_at=local_time(model.expires_at),
            size_vram=model.size_vram,
            context_length=model.context_length,
        )
        for model in models
    ]
    return JSONResponse(wire.ProcessResponse(models=rows))


@post("/api/show", status_code=200, dto=GoJSON[wire.ShowRequest], responses=ERRORS)
async def show(
    data: JSONBody[wire.ShowRequest], request: BodyRequest, service: Injected
) -> Response[wire.ShowResponse]:
    """Everything about one model."""
    name = required(data)
    model = await service.show(name, system=data.system, options=data.options, verbose=data.verbose)
    model_info = dict(model.model_info)
    if request.headers.get("user-agent", "").startswith(COPILOT):
        model_info["general.basename"] = name  # Copilot shows it as the model's name
    shown = wire.ShowResponse(
        license=model.license,
        modelfile=model.modelfile,
        parameters=model.parameters,
        template=model.template,
        system=model.system,
        details=details(model.facts),
        messages=[sent(message) for message in model.messages],
        model_info=model_info,
        tensors=[wire.Tensor(name=t["name"], type=t["type"], shape=list(t["shape"])) for t in model.tensors],
        capabilities=list(model.capabilities),
        modified_at=local_time(model.modified_at),
        requires=model.requires,
        bundle=converted(model.bundle) if model.bundle else None,
    )
    return JSONResponse(shown)


@post("/api/copy", status_code=200, dto=GoJSON[wire.CopyRequest], responses=ERRORS)
async def copy(data: JSONBody[wire.CopyRequest], service: Injected) -> Response[None]:
    """Give a model another name."""
    await service.copy(data.source, data.destination)
    return Response(None, media_type=MediaType.TEXT)


@delete("/api/delete", status_code=200, dto=GoJSON[wire.DeleteRequest], responses=ERRORS)
async def remove(data: JSONBody[wire.DeleteRequest], service: Injected) -> Response[None]:
    """Remove a model."""
    await service.delete(required(data))
    return Response(None, media_type=MediaType.TEXT)


def required(data: wire.ShowRequest | wire.DeleteRequest) -> str:
    """The model's name under either key; raises InvalidRequest."""
    if (name := data.model or data.name).strip():
        return name
    raise InvalidRequest("model is required")


def details(facts: core.ModelFacts, *, lengths: bool = False) -> wire.Details:
    """A model's details; only the list of models tells the two lengths."""
    return wire.Details(
        parent_model=facts.parent_model,
        format=facts.format,
        family=facts.family,
        families=list(facts.families) or None,
        parameter_size=facts.parameter_size,
        quantization_level=facts.quantization_level,
        context_length=facts.context_length if lengths else 0,
        embedding_length=facts.embedding_length if lengths else 0,
    )


def converted(bundle: conversion_facts.BundleFacts) -> wire.BundleFacts:
    """What a model was converted to, on the wire."""
    shown = wire.BundleFacts(recipe=bundle.recipe, kv_cache_type=bundle.kv_cache_type, size=bundle.size)
    match bundle.fidelity:
        case conversion_facts.Fidelity() as found:
            shown.fidelity = wire.Fidelity(found.tokens, found.nll, found.source_nll, found.top1)
        case conversion_facts.Likeness() as found:
            shown.likeness = wire.Likeness(found.texts, found.cosine, found.least_cosine, found.score_error)
    return shown


def sent(message: core.Message) -> wire.Message:
    """A message of the model's own, on the wire."""
    return wire.Message(
        role=message.role,
        content=message.content,
        thinking=message.thinking,
        images=list(message.images),
        tool_calls=tool_calls(message),
        tool_name=message.tool_name,
        tool_call_id=message.tool_call_id,
    )
