"""From logits to the next token: small functions over sorted candidates, chained once per request.

The order is llama.cpp's: penalties, top-k, typical, top-p, min-p, temperature, draw. Probabilities of the
filters are therefore those before temperature. A request draws one uniform number a token from a generator
of its own, so what else runs cannot change its text.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from appliance.core import SamplingParams
from appliance.engine.backend import Logits
from appliance.errors import ModelFileError

BLOCK = 256  # logits whose maximum is taken together

Ids = npt.NDArray[np.int64]
Filter = Callable[[Logits], int | npt.NDArray[np.bool_]]
"""Takes descending logits [N]; returns how many of the first to keep, or a mask [N] of those to keep."""


class Sampler:
    """Chooses tokens for one request."""

    def __init__(self, params: SamplingParams, num_ctx: int) -> None:
        self._params = params
        self._window = num_ctx if params.repeat_last_n < 0 else params.repeat_last_n
        self._penalises = self._window > 0 and (
            params.repeat_penalty != 1.0 or params.presence_penalty != 0.0 or params.frequency_penalty != 0.0
        )
        self._filters = filters(params)
        self._random = np.random.default_rng(params.seed if params.seed >= 0 else secrets.randbits(64))

    def sample(self, logits: Logits, history: Sequence[int], allowed: npt.NDArray[np.bool_] | None = None) -> int:
        """The next token after `history`, from its logits [V], of those that `allowed` [V] lets through.

        Raises ModelFileError on NaN or infinity.
        """
        top = logits.max()
        if not np.isfinite(top):
            raise ModelFileError("the model produced logits that are not numbers; its file may be damaged")
        params = self._params
        if self._penalises:
            logits = penalise(logits, history[-self._window :], params)
        if allowed is not None:
            logits = np.where(allowed, logits, -np.inf)
        if params.temperature <= 0:
            return int(logits.argmax())
        if params.top_k <= 0 and not self._filters:  # nothing to sort for: draw from the whole vocabulary
            return draw(softmax(logits / params.temperature), self._random.random())
        ids, kept = candidates(logits, params.top_k)
        for keep in self._filters:
            chosen = keep(kept)
            if isinstance(chosen, int):
                ids, kept = ids[:chosen], kept[:chosen]
            else:
                ids, kept = ids[chosen], kept[chosen]
        return int(ids[draw(softmax(kept / params.temperature), self._random.random())])


def filters(params: SamplingParams) -> list[Filter]:
    """The filters that `params` switch on, in order."""
    chain: list[Filter] = []
    if params.typical_p < 1.0:
        chain.append(lambda logits: typical(logits, params.typical_p))
    if params.top_p < 1.0:
        chain.append(lambda logits: nucleus(logits, params.top_p))
    if params.min_p > 0.0:
        chain.append(lambda logits: above_min(logits, params.min_p))
    return chain


def penalise(logits: Logits, recent: Sequence[int], params: SamplingParams) -> Logits:
    """Logits [V] with repeated tokens made less likely (a copy)."""
    if not recent:
        return logits
    counts = Counter(recent)
    ids = np.fromiter(counts, np.int64, len(counts))
    times = np.fromiter(counts.values(), np.float32, len(counts))
    logits = logits.copy()
    seen = logits[ids]
    seen = np.where(seen > 0, seen / params.repeat_penalty, seen * params.repeat_penalty)
    logits[ids] = seen - times * params.frequency_penalty - params.presence_penalty
    return logits


def candidates(logits: Logits, top_k: int) -> tuple[Ids, Logits]:
    """Ids and logits of the `top_k` most likely tokens (all, when off), descending, ties by ascending id.

    Tokens of logit -inf may be left out.
    """
    if 0 < top_k < len(logits):
        # every token at least as likely as the k-th, so that ties at the edge do not depend on the partition
        edge = kth_at_least(logits, top_k)
        ids = np.flatnonzero(logits >= edge if edge > -np.inf else logits > edge)
    else:
        top_k = len(logits)
        ids = np.arange(top_k)
    order = np.argsort(-logits[ids], kind="stable")[:top_k]
    ids = ids[order]
    return ids, logits[ids]


def kth_at_least(logits: Logits, k: int) -> np.float32:
    """A value that at least `k` logits [N] reach, and few more: the k-th largest of the blocks' maxima.

    Maxima take a tenth of the time of a partition of all logits, which is left to the few there are.
    """
    whole = len(logits) - len(logits) % BLOCK
    values = logits if k > whole // BLOCK else logits[:whole].reshape(-1, BLOCK).max(axis=1)
    edge: np.float32 = np.partition(values, len(values) - k)[len(values) - k]
    return edge


def softmax(logits: Logits) -> Logits:
    """Probabilities over [N]."""
    weights = np.exp(logits - logits.max())
    result: Logits = weights / weights.sum()
    return result


def typical(logits: Logits, p: float) -> npt.NDArray[np.bool_]:
    """Locally typical sampling (Meister et al., 2022): keep tokens whose surprise is nearest the entropy."""
    probabilities = softmax(logits)
    surprise = -np.log(np.maximum(probabilities, 1e-30))
    entropy = float((probabilities * surprise).sum())
    order = np.argsort(np.abs(surprise - entropy), kind="stable")
    count = int(np.searchsorted(np.cumsum(probabilities[order]), p)) + 1
    mask = np.zeros(len(logits), np.bool_)
    mask[order[:count]] = True
    return mask


def nucleus(logits: Logits, p: float) -> int:
    """Top-p (Holtzman et al., 2020): the fewest tokens whose probabilities reach p, at least one."""
    return int(np.searchsorted(np.cumsum(softmax(logits)), p)) + 1


def above_min(logits: Logits, p: float) -> int:
    """Min-p: tokens at least p times as likely as the likeliest; at least one."""
    return max(1, int(np.count_nonzero(logits >= logits.max() + np.log(p))))


def draw(probabilities: Logits, uniform: float) -> int:
    """The index where the cumulative probabilities [N] pass `uniform` in [0, 1)."""
    cumulative = np.cumsum(probabilities, dtype=np.float64)
    return min(int(np.searchsorted(cumulative, uniform * cumulative[-1], side="right")), len(cumulative) - 1)


def log_probabilities(logits: Logits, token: int, top: int) -> tuple[float, list[tuple[int, float]]]:
    """Natural-log probability of `token` under logits [V], and the `top` likeliest as (id, log probability)."""
    peak = float(logits.max())
    norm = peak + float(np.log(np.exp(logits - peak, dtype=np.float64).sum()))
    best: list[tuple[int, float]] = []
    if top > 0:
        ids, values = candidates(logits, top)
        best = [(int(i), float(v) - norm) for i, v in zip(ids, values, strict=True)]
    return min(0.0, float(logits[token]) - norm), best
