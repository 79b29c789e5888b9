"""The HTTP application: dialects, errors and guards around one service."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from litestar import Litestar, Response, get
from litestar.di import Provide
from litestar.handlers import HTTPRouteHandler
from litestar.openapi import OpenAPIConfig

from api import archive, errors, ollama, openai, share, stats, upkeep
from api.encode import JSONResponse
from api.guards import CORS, Hosts
from api.requests import BodyRequest
from api.routing import StrictPaths
from api.service import ApiSettings, InferenceService

ROUTES = (*ollama.ROUTES, *openai.ROUTES, stats.stats, *upkeep.ROUTES, *archive.ROUTES)


def create_app(service: InferenceService, settings: ApiSettings) -> Litestar:
    """An ASGI application that holds no state of its own. The caller closes the service after it."""

    routes = (*ROUTES, *share.ROUTES) if settings.share else ROUTES

    @cache
    def document() -> dict[str, Any]:
        return openapi_document(routes, service)

    @get("/openapi.json", include_in_schema=False)
    async def openapi() -> Response[dict[str, Any]]:
        return JSONResponse(document())

    app = _litestar([*routes, openapi], service)
    # Litestar's own middleware starts behind its router, and would not see requests for paths that do not exist
    app.asgi_handler = CORS(Hosts(StrictPaths(app, app.asgi_handler), settings.host), settings.origins)
    return app


def openapi_document(routes: Sequence[HTTPRouteHandler], service: InferenceService) -> dict[str, Any]:
    """The OpenAPI document, from an application made for it: Litestar's own pages bring a catch-all route."""
    config = OpenAPIConfig(title="Edge appliance", version=service.version, use_handler_docstrings=True)
    return _litestar(routes, service, config).openapi_schema.to_schema()


def _litestar(
    routes: Sequence[HTTPRouteHandler], service: InferenceService, openapi: OpenAPIConfig | None = None
) -> Litestar:
    return Litestar(
        list(routes),
        dependencies={"service": Provide(lambda: service, sync_to_thread=False)},
        exception_handlers=errors.HANDLERS,
        request_class=BodyRequest,
        openapi_config=openapi,
        logging_config=None,
        debug=False,
    )
