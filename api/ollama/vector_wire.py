"""The bodies of what turns texts into numbers: embeddings and rankings. See wire.py for how they are declared."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, field

from api.ollama.wire import KeepAlive, Options, Wire


class EmbedRequest(Wire):
    """POST /api/embed."""

    model: str
    input: Annotated[Any, Meta(description="A text, or a list of texts")] = None
    truncate: bool | None = None
    dimensions: int = 0
    keep_alive: KeepAlive = None
    options: Options = field(default_factory=dict)


class EmbedResponse(Wire):
    """POST /api/embed: a vector of length 1 for every text. Durations are nanoseconds."""

    model: str
    embeddings: list[list[float]]
    total_duration: int = 0
    load_duration: int = 0
    prompt_eval_count: int = 0


class EmbeddingRequest(Wire):
    """POST /api/embeddings."""

    model: str
    prompt: str = ""
    keep_alive: KeepAlive = None
    options: Options = field(default_factory=dict)


class EmbeddingResponse(Wire):
    """POST /api/embeddings: the vector as the model made it."""

    embedding: list[float]


class RerankRequest(Wire):
    """POST /api/rerank."""

    model: str
    query: str
    documents: Annotated[list[Any], Meta(description="Texts, or objects with a `text`")] = field(default_factory=list)
    top_n: int | None = None
    return_documents: bool | None = None
    truncate: bool | None = None
    keep_alive: KeepAlive = None
    options: Options = field(default_factory=dict)


class RerankedText(Wire):
    """A document that was ranked."""

    text: str


class RerankResult(Wire, kw_only=True):
    """A document by its place in the request; its score is from 0 to 1."""

    index: int
    document: RerankedText | None = None
    relevance_score: float


class RerankUsage(Wire):
    """Tokens of the query with every document, special ones included."""

    prompt_tokens: int
    total_tokens: int


class RerankResponse(Wire):
    """POST /api/rerank: the most relevant document first."""

    model: str
    usage: RerankUsage
    results: list[RerankResult]
