"""Texts to vectors, and documents to a ranking: from a request and a loaded encoder to what the client gets."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from appliance.core import Embeddings, EmbedRequest, Ranked, Ranking, RerankRequest
from appliance.engine.desk import Job
from appliance.engine.encoder import Pair, Vectors
from appliance.errors import InputTooLong, InvalidRequest, NoEmbeddings, NotEmbedded, Unsupported
from appliance.prompt.tokenizer import EncoderInput, Tokenizer
from appliance.runner import EncoderRunner, Runner

log = logging.getLogger(__name__)

SMALLEST_NORM = 1e-12  # a vector of zeros stays one


def embedder(runner: Runner, model: str) -> EncoderRunner:
    """The runner, if it makes embeddings; raises NoEmbeddings."""
    if isinstance(runner, EncoderRunner) and runner.bundle.kind == "encoder":
        return runner
    raise NoEmbeddings(model)


def reranker(runner: Runner, model: str) -> EncoderRunner:
    """The runner, if it scores pairs of texts; raises Unsupported."""
    if isinstance(runner, EncoderRunner) and runner.bundle.kind == "reranker":
        return runner
    raise Unsupported(f'"{model}" does not support rerank: it is not a reranker')


async def embed(runner: EncoderRunner, request: EmbedRequest, limit: int) -> Embeddings:
    """The embedding of every text, each at most `limit` tokens. Raises InputTooLong, NotEmbedded, ServerBusy."""
    inputs = await asyncio.to_thread(read_inputs, runner.tokenizer, request.inputs, limit, request.truncate)
    tokens = sum(len(each.ids) for each in inputs)
    encoder, ids = runner.desk.encoder, [each.ids for each in inputs]
    raw = await result(runner.desk.submit(tokens, lambda withdrawn: encoder.encode(ids, withdrawn)))
    return Embeddings(await asyncio.to_thread(finished, raw, request.dimensions, request.normalize), tokens)


async def rerank(runner: EncoderRunner, request: RerankRequest, limit: int) -> Ranking:
    """The documents by how well they answer the query, the best first, at most `top_n`.

    Query and document together are at most `limit` tokens; the document is what is cut. Raises InputTooLong,
    InvalidRequest, ServerBusy.
    """
    inputs = await asyncio.to_thread(read_pairs, runner.tokenizer, request, limit)
    tokens = sum(len(each.ids) for each in inputs)
    encoder, pairs = runner.desk.encoder, [Pair(each.ids, each.type_ids) for each in inputs]
    logits = await result(runner.desk.submit(tokens, lambda withdrawn: encoder.score(pairs, withdrawn)))
    return Ranking(ranked(logits, request.top_n), tokens)


async def result(job: Job) -> Vectors:
    """What the job brings; whoever stops waiting for it withdraws it."""
    try:
        return await asyncio.wrap_future(job.future)
    finally:
        job.cancel()


def read_inputs(tokenizer: Tokenizer, texts: Sequence[str], limit: int, truncate: bool) -> list[EncoderInput]:
    """The tokens of all texts, special ones included, at most `limit` each; the log says how many lost their end.

    Raises InputTooLong for a longer text that may not be truncated, InvalidRequest where nothing would be left of it.
    """
    special = tokenizer.special_tokens()
    inputs = []
    for text in texts:
        read = tokenizer.encode_input(text)
        if read.needed > limit:
            if not truncate:
                raise InputTooLong(read.needed, limit)
            if limit <= special:
                raise InvalidRequest(
                    f"input after truncation exceeds maximum context length (of {limit} tokens, and the model's "
                    f"special tokens alone are {special}; raise num_ctx)"
                )
            read = tokenizer.encode_input(text, limit)
        inputs.append(read)
    log_cuts(inputs, limit)
    return inputs


def read_pairs(tokenizer: Tokenizer, request: RerankRequest, limit: int) -> list[EncoderInput]:
    """The tokens of the query with each document, see `read_inputs`; something of every document stays."""
    query = len(tokenizer.encode(request.query, add_bos=False)) + tokenizer.special_tokens(pair=True)
    if query >= limit:
        raise InputTooLong(query + 1, limit)
    inputs = [tokenizer.encode_pair(request.query, document) for document in request.documents]
    longest = max(each.needed for each in inputs)
    if longest > limit and not request.truncate:
        raise InputTooLong(longest, limit)
    log_cuts(inputs, limit)
    return [
        each if each.needed <= limit else tokenizer.encode_pair(request.query, document, limit)
        for each, document in zip(inputs, request.documents, strict=True)
    ]


def log_cuts(inputs: Sequence[EncoderInput], limit: int) -> None:
    """Tell the log how many of them do not fit."""
    if cut := sum(each.needed > limit for each in inputs):
        log.warning("cut %d of %d texts to %d tokens", cut, len(inputs), limit)


def finished(vectors: Vectors, dimensions: int, normalize: bool) -> Vectors:
    """Vectors [N,D] as clients get them: cut to the first `dimensions`, if that is fewer, and of length 1.

    Raises NotEmbedded for one that holds no numbers.
    """
    if not np.isfinite(vectors).all():
        raise NotEmbedded("embedding contains NaN or Inf values")
    if 0 < dimensions < vectors.shape[1]:
        vectors = vectors[:, :dimensions]
    return normalised(vectors) if normalize else vectors


def normalised(vectors: Vectors) -> Vectors:
    """Every row at length 1; a row of zeros as it is. The squares are summed in float64, where none overflows."""
    norms = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    unit: Vectors = (vectors / np.maximum(norms, SMALLEST_NORM)).astype(np.float32)
    return unit


def ranked(logits: Vectors, top_n: int | None) -> tuple[Ranked, ...]:
    """The places of the largest logits [N], best first, with their sigmoids. Raises InvalidRequest for no numbers."""
    if not np.isfinite(logits).all():
        raise InvalidRequest("relevance scores contain NaN or Inf values")
    scores = sigmoid(logits.astype(np.float64))
    order = np.argsort(-logits, kind="stable")[:top_n]
    return tuple(Ranked(int(place), float(scores[place])) for place in order)


def sigmoid(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """1 / (1 + exp(-x)), for large ones of either sign too."""
    share: npt.NDArray[np.float64] = 0.5 * (1 + np.tanh(logits / 2))
    return share
