"""GET /v1/models and /v1/models/{model}: the installed models as OpenAI lists them."""

from __future__ import annotations

from typing import Literal

import msgspec
from litestar import Response, get
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath

from api.encode import JSON_PLAIN, JSONResponse
from api.openai.errors import ErrorEnvelope, on_error
from api.service import Injected
from appliance.errors import ApplianceError
from appliance.store.names import parse_reference


class Model(msgspec.Struct):
    """An installed model. `created` is when it was last changed, in seconds of Unix time."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(msgspec.Struct):
    """GET /v1/models: in the order of /api/tags."""

    object: Literal["list"]
    data: list[Model]


@get("/v1/models", exception_handlers={ApplianceError: on_error})
async def listed(service: Injected) -> Response[ModelList]:
    """The installed models, newest first, as OpenAI lists them."""
    models = sorted(await service.models(), key=lambda model: model.modified_at, reverse=True)
    rows = [Model(row.name, "model", int(row.modified_at.timestamp()), owner(row.name)) for row in models]
    return JSONResponse(ModelList("list", rows), media_type=JSON_PLAIN)


@get(
    "/v1/models/{model:str}",
    exception_handlers={ApplianceError: on_error},
    responses={404: ResponseSpec(ErrorEnvelope, description="There is no such model", generate_examples=False)},
)
async def retrieved(model: FromPath[str], service: Injected) -> Response[Model]:
    """One installed model under the name that was asked for, as OpenAI tells of it."""
    shown = await service.show(model)
    found = Model(model, "model", int(shown.modified_at.timestamp()), owner(model))
    return JSONResponse(found, media_type=JSON_PLAIN)


def owner(name: str) -> str:
    """The namespace of a model's name."""
    return parse_reference(name).namespace
