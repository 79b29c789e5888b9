"""Embedding many texts, tokenising included: ours, sentence-transformers, and llama-server over HTTP."""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import httpx

from scripts.bench.bench import Bench, spawn
from scripts.bench.core import LLAMA, OURS, SENTENCE_TRANSFORMERS, Case, Embedding, Figures, Metric
from scripts.bench.dialects import MODEL
from scripts.bench.prompts import Prompts
from scripts.bench.servers import llama_server

SHORTEST, LONGEST = 10, 200
"""Words of a text."""
SEED = 1
LIMIT_TOKENS = 256
"""Longer texts lose their end; llama-server refuses them instead, so nobody embeds more than others."""
BATCH = 32
"""Texts in a batch of sentence-transformers, and in a request to llama-server."""
SLOTS = 8
PATIENCE_S = 600.0
METRICS = (Metric("sentences/s", "", "more", 1),)


def cases(bench: Bench) -> list[Case]:
    """One case; llama-server alone is asked over HTTP, the others embed in a process of their own."""
    embedding = bench.embedding
    if embedding is None:
        raise RuntimeError("embed has no model to measure; --embed-model names one")
    texts = sentences(bench.sizes.sentences)
    contestants: dict[str, Callable[[], Figures]] = {OURS: lambda: ours(bench, embedding, texts)}
    if embedding.st_python and (folder := embedding.st_model):
        python = embedding.st_python
        contestants[SENTENCE_TRANSFORMERS] = lambda: in_python(
            bench, python, "in_sentence_transformers", folder, texts, ["--batch", str(BATCH)]
        )
    if bench.llama and (gguf := embedding.gguf):
        contestants[LLAMA] = lambda: llama(bench, gguf, texts)
    return [Case("", contestants)]


def sentences(count: int) -> list[str]:
    """So many texts of 10 to 200 words, the same ones at every call."""
    lengths, prompts = random.Random(SEED), Prompts(SEED)
    return [prompts.words(lengths.randint(SHORTEST, LONGEST)) for _ in range(count)]


def ours(bench: Bench, embedding: Embedding, texts: Sequence[str]) -> Figures:
    """Our encoder, converted at the first call."""
    bundle = bench.work / "encoder"
    if not bundle.exists():
        print(f"converting {embedding.model.name}", file=sys.stderr)
        how = ["--recipe", embedding.recipe, "--out", str(bundle)]
        spawn([sys.executable, "-m", "converters", str(embedding.model), *how])
    return in_python(bench, sys.executable, "in_encoder", bundle, texts)


def in_python(
    bench: Bench, python: str, module: str, model: Path, texts: Sequence[str], more: Sequence[str] = ()
) -> Figures:
    """What embeds the texts in a process that prints its figures."""
    file = bench.work / "texts.json"
    file.write_text(json.dumps(texts), encoding="utf-8")
    counts = ["--threads", str(bench.threads), "--limit", str(LIMIT_TOKENS), *more]
    out, _ = spawn([python, "-m", f"scripts.bench.{module}", str(model), str(file), *counts])
    figures: Figures = json.loads(out)
    return figures


def llama(bench: Bench, gguf: Path, texts: Sequence[str]) -> Figures:
    """llama-server in its embedding mode, with room for LIMIT_TOKENS in every slot."""
    assert bench.llama
    context = SLOTS * LIMIT_TOKENS
    more = ["--embedding", "-b", str(context), "-ub", str(context)]
    with llama_server(
        bench.llama, gguf, slots=SLOTS, context=context, threads=bench.threads, work=bench.work, more=more
    ) as server:
        return over_http(server.url, texts)


def over_http(url: str, texts: Sequence[str]) -> Figures:
    """One client, one batch after the other, after a batch that warms up. Raises RuntimeError for a refusal."""
    with httpx.Client(base_url=url, timeout=PATIENCE_S) as client:
        request(client, texts[:BATCH])
        started = time.perf_counter()
        for at in range(0, len(texts), BATCH):
            request(client, texts[at : at + BATCH])
        return {"sentences/s": len(texts) / (time.perf_counter() - started)}


def request(client: httpx.Client, texts: Sequence[str]) -> None:
    """Have one batch embedded. Raises RuntimeError unless every text has an embedding."""
    answer = client.post("/v1/embeddings", json={"model": MODEL, "input": list(texts)})
    if answer.status_code != 200:
        raise RuntimeError(f"/v1/embeddings answered {answer.status_code}: {answer.text[:2000]}")
    found = len(answer.json()["data"])
    if found != len(texts):
        raise RuntimeError(f"/v1/embeddings answered {found} embeddings to {len(texts)} texts")
