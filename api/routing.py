"""Where Ollama's router differs from Litestar's: ASGI middleware around the latter."""

from __future__ import annotations

from urllib.parse import quote

from litestar import Litestar
from litestar.enums import ScopeType
from litestar.exceptions import HTTPException
from litestar.types import ASGIApp, HTTPScope, Method, Receive, Scope, Send
from litestar.utils.path import normalize_path

REGISTRY_ROOT = "/v2/"  # as the specification of registries spells it; clients follow no redirect there
_NEVER_ROUTED: Method = "TRACE"


class StrictPaths:
    """Redirects a trailing slash, where Litestar ignores it, and treats OPTIONS as any other method.

    Litestar also folds repeated slashes and answers OPTIONS by itself on every path.
    """

    def __init__(self, app: Litestar, router: ASGIApp) -> None:
        self._app = app
        self._router = router

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            return await self._router(scope, receive, send)
        path = scope["path"]
        if path == REGISTRY_ROOT:
            path = path[:-1]
            scope = {**scope, "path": path}
        if path != "/" and path.endswith("/") and self._is_routed(path[:-1], scope["method"]):
            return await _redirect(scope, send)
        if path != normalize_path(path):
            scope = {**scope, "path": "/\0"}  # on no route
        if scope["method"] == "OPTIONS":
            scope = {**scope, "method": _NEVER_ROUTED}
        await self._router(scope, receive, send)

    def _is_routed(self, path: str, method: Method) -> bool:
        try:
            self._app.asgi_router.handle_routing(path=path, method=method)
        except HTTPException:
            return False
        return path == normalize_path(path)


async def _redirect(scope: HTTPScope, send: Send) -> None:
    location = quote(scope["path"][:-1]).encode() + (b"?" + scope["query_string"] if scope["query_string"] else b"")
    status = 301 if scope["method"] == "GET" else 307
    headers = [(b"location", location), (b"content-length", b"0")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"", "more_body": False})
