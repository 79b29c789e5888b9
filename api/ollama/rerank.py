"""POST /api/rerank, in the shape of Jina's API. Ollama has no such endpoint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from litestar import Response, post
from litestar.params import JSONBody

from api import streaming
from api.encode import JSONResponse
from api.ollama import vector_wire as wire
from api.ollama.routes import ERRORS
from api.requests import GoJSON
from api.service import Injected
from appliance import core
from appliance.errors import InvalidRequest


@post("/api/rerank", status_code=200, dto=GoJSON[wire.RerankRequest], responses=ERRORS)
async def rerank(data: JSONBody[wire.RerankRequest], service: Injected) -> Response[wire.RerankResponse]:
    """Documents by how well they answer a query, the best first. Not part of Ollama's API."""
    request = core.RerankRequest(
        model=required(data.model, "model"),
        query=required(data.query, "query"),
        documents=documents(data.documents),
        top_n=data.top_n,
        truncate=data.truncate is not False,
        options=data.options,
        keep_alive_s=cast("float | None", data.keep_alive),
    )
    if data.top_n is not None and data.top_n < 1:
        raise InvalidRequest(f"top_n is {data.top_n}; it must be at least 1")

    async def answer() -> Response[wire.RerankResponse]:
        ranking = await service.rerank(request)
        shown = request.documents if data.return_documents is not False else None
        content = wire.RerankResponse(
            model=data.model,
            usage=wire.RerankUsage(ranking.prompt_tokens, ranking.prompt_tokens),
            results=[result(each, shown) for each in ranking.results],
        )
        return JSONResponse(content, status_code=200)

    return streaming.whole(answer)


def result(ranked: core.Ranked, shown: Sequence[str] | None) -> wire.RerankResult:
    """A result on the wire, with its document if documents are `shown`."""
    document = wire.RerankedText(shown[ranked.index]) if shown is not None else None
    return wire.RerankResult(index=ranked.index, document=document, relevance_score=ranked.relevance)


def required(text: str, field: str) -> str:
    """A field that must not be empty; raises InvalidRequest."""
    if text.strip():
        return text
    raise InvalidRequest(f"{field} is required")


def documents(given: Sequence[Any]) -> tuple[str, ...]:
    """The texts of `documents`. Raises InvalidRequest."""
    if not given:
        raise InvalidRequest("documents is required: at least one text")
    return tuple(document(place, each) for place, each in enumerate(given))


def document(place: int, given: Any) -> str:
    """The text of one document; raises InvalidRequest."""
    text = given.get("text") if isinstance(given, dict) else given
    if isinstance(text, str):
        return text
    raise InvalidRequest(f"documents[{place}] must be a text, or an object with a text")
