"""The Ollama dialect."""

from __future__ import annotations

from api.ollama.blobs import probe, upload
from api.ollama.cloud import recommendations, status, web_fetch, web_search
from api.ollama.create import create
from api.ollama.embed import embed, embeddings
from api.ollama.inference import chat, generate
from api.ollama.models import copy, ps, remove, show, tags
from api.ollama.rerank import rerank
from api.ollama.server import root, version
from api.ollama.transfer import pull, push

ROUTES = (
    root,
    version,
    status,
    generate,
    chat,
    embed,
    embeddings,
    rerank,
    tags,
    ps,
    show,
    copy,
    remove,
    create,
    pull,
    push,
    probe,
    upload,
    web_search,
    web_fetch,
    recommendations,
)
