"""Embeddings and relevance scores: an encoder's bundle, loaded.

Texts of a call run in batches of similar length, the longest first. Rows of one length run without padding, which
is what costs: see `batches`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from appliance import bundle as files
from appliance.bundle import Bundle
from appliance.engine.providers import CPU, Provider, candidates, run_options, session_options
from appliance.engine.session import open_session, probe_tokens
from appliance.errors import EngineStopped, InvalidRequest, ModelFileError, PromptTooLong, RequestCancelled, first_line

log = logging.getLogger(__name__)

BATCH_TOKENS = {"cpu": 1024, "cuda": 16384}  # of a run, padding included; one text may be longer
WASTED_TOKENS = {"cpu": 16, "cuda": 64}  # as much padding as a row may have: another run costs about that

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Pair:
    """A query and a document as the tokenizer joins them: `types` [tokens] are 0 for the first part, 1 for the other.

    Models without token types have zeros.
    """

    tokens: Sequence[int]
    types: Sequence[int]


def never() -> bool:
    """A request that nobody withdraws."""
    return False


def open_encoder(
    folder: Path, bundle: Bundle, *, setting: str, threads: int, spin: bool = True, name: str = "encoder"
) -> Encoder:
    """The encoder on the first execution provider for `setting` that can run the graph.

    Raises ModelFileError when none can; says in the log why a better one is passed over.
    """
    *better, last = candidates(setting)
    for provider in better:
        try:
            return Encoder(folder, bundle, provider=provider, threads=threads, spin=spin, name=name)
        except ModelFileError as error:
            log.warning("%s cannot run this model, trying the next provider: %s", provider.label, error)
    return Encoder(folder, bundle, provider=last, threads=threads, spin=spin, name=name)


class Encoder:
    """A loaded encoder or reranker. Any thread may call it; one thread of its own runs the graph.

    Batches of several callers take turns.
    """

    def __init__(
        self,
        folder: Path,
        bundle: Bundle,
        *,
        provider: Provider,
        threads: int,
        spin: bool = True,
        name: str = "encoder",
    ) -> None:
        self.dimensions = bundle.embedding_length
        self.max_tokens = bundle.context_length
        self.provider = provider.label
        try:
            self.memory_bytes = (folder / files.WEIGHTS).stat().st_size
        except OSError as error:
            raise ModelFileError(f"the bundle's weights are missing: {error.strerror}") from error
        self.accelerated = provider is not CPU
        self._session: Any = open_session(folder / files.MODEL, provider, session_options(provider, threads, spin))
        self._owner = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._batch_tokens, self._wasted_tokens = BATCH_TOKENS[provider.device], WASTED_TOKENS[provider.device]
        if bundle.target != "cpu":
            self._check_range(bundle)

    def _check_range(self, bundle: Bundle) -> None:
        """Raise ModelFileError for a graph that does not run here, or whose activations outgrow float16."""
        tokens = probe_tokens(bundle.vocab_size)[: self.max_tokens]
        try:
            if bundle.kind == "reranker":
                result = self.score([Pair(tokens, [0] * len(tokens))])
            else:
                result = self.encode([tokens])
        except EngineStopped as error:
            self.close()
            raise ModelFileError(f"the graph does not run: {error}") from error
        if not np.isfinite(result).all():
            self.close()
            raise ModelFileError("the model's activations are too large for float16")

    def encode(self, inputs: Sequence[Sequence[int]], cancelled: Callable[[], bool] = never) -> Vectors:
        """The embeddings [N,D] of `inputs`, token ids with the special ones, in their order; not normalised.

        `cancelled` is asked before every batch. Raises PromptTooLong, InvalidRequest for an input without tokens,
        RequestCancelled, EngineStopped.
        """
        return self._run("embeddings", inputs, None, cancelled).reshape(len(inputs), self.dimensions)

    def score(self, pairs: Sequence[Pair], cancelled: Callable[[], bool] = never) -> Vectors:
        """A reranker's raw logits [N]; a sigmoid makes shares of them. Raises as `encode` does."""
        types = [pair.types for pair in pairs]
        return self._run("scores", [pair.tokens for pair in pairs], types, cancelled).reshape(len(pairs))

    def close(self) -> None:
        """Release session and memory after the batch in progress. Later calls raise EngineStopped; idempotent."""
        self._owner.shutdown(cancel_futures=True)
        self._session = None

    def _run(
        self,
        output: str,
        inputs: Sequence[Sequence[int]],
        types: Sequence[Sequence[int]] | None,
        cancelled: Callable[[], bool],
    ) -> Vectors:
        lengths = [len(tokens) for tokens in inputs]
        self._check(lengths)
        results: list[Vectors] = [np.zeros(0, np.float32)] * len(inputs)
        for batch in batches(lengths, self._batch_tokens, self._wasted_tokens):
            if cancelled():
                raise RequestCancelled
            feeds = _padded([inputs[place] for place in batch])
            if types is not None:
                feeds["token_type_ids"] = _padded([types[place] for place in batch])["input_ids"]
            for place, row in zip(batch, self._owned(output, feeds), strict=True):
                results[place] = row
        return np.concatenate(results) if results else np.zeros(0, np.float32)

    def _check(self, lengths: Sequence[int]) -> None:
        if not all(lengths):
            raise InvalidRequest(f"input {lengths.index(0)} has no tokens; give it at least one")
        if lengths and max(lengths) > self.max_tokens:
            raise PromptTooLong(max(lengths), self.max_tokens)

    def _owned(self, output: str, feeds: dict[str, npt.NDArray[np.int64]]) -> Vectors:
        """Run one batch in the owner's thread."""
        try:
            result: Vectors = self._owner.submit(self._session_run, output, feeds).result()
        except (CancelledError, RuntimeError) as error:
            raise EngineStopped("the model was unloaded") from error
        return result

    def _session_run(self, output: str, feeds: dict[str, npt.NDArray[np.int64]]) -> Any:
        try:
            return self._session.run([output], feeds, run_options(shrinks=True))[0]
        except Exception as error:  # ONNX Runtime's exceptions share no base below Exception
            raise EngineStopped(first_line(error)) from error


def batches(lengths: Sequence[int], budget: int, waste: int) -> list[list[int]]:
    """The places of all lengths in groups, longest first: at most `budget` tokens each, padding included.

    No row is padded by more than `waste` tokens, and a row alone may be longer than the budget.
    """
    groups: list[list[int]] = []
    longest = 0
    for place in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
        length = lengths[place]
        if groups and length >= longest - waste and (len(groups[-1]) + 1) * longest <= budget:
            groups[-1].append(place)
        else:
            groups.append([place])
            longest = length
    return groups


def _padded(rows: Sequence[Sequence[int]]) -> dict[str, npt.NDArray[np.int64]]:
    """Ids and mask [B,S], filled up on the right."""
    shape = len(rows), max(map(len, rows))
    ids, mask = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = row
        mask[index, : len(row)] = 1
    return {"input_ids": ids, "attention_mask": mask}
