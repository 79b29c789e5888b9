"""The nouns of conversions: what one takes, before it, and what came of it, after.

Sizes are bytes, durations seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Fidelity:
    """How close a bundle comes to its source on `tokens` tokens: their negative log-likelihood in nats a token.

    `top1` is the share of tokens at which both like the same next token best. None: the source did not fit in memory.
    """

    tokens: int
    nll: float
    source_nll: float | None = None
    top1: float | None = None


@dataclass(frozen=True, slots=True)
class Likeness:
    """How close an encoder's bundle comes to its source on `texts` texts.

    Of embeddings the mean cosine and the least, of a reranker's scores the error in standard deviations.
    """

    texts: int
    cosine: float | None = None
    least_cosine: float | None = None
    score_error: float | None = None


@dataclass(frozen=True, slots=True)
class BundleFacts:
    """What a model was converted to: the recipe, how keys and values are cached ("": they are not), bytes on disk."""

    recipe: str
    kv_cache_type: str
    size: int
    fidelity: Fidelity | Likeness | None = None  # None: not measured


@dataclass(frozen=True, slots=True)
class RecipeCost:
    """What converting with a recipe takes: the bundle, the memory of the conversion, seconds; all but `disk` rough.

    `refused` says why the recipe cannot be used, and then nothing else counts.
    """

    disk_bytes: int = 0
    conversion_bytes: int = 0
    conversion_s: float = 0.0
    refused: str = ""


@dataclass(frozen=True, slots=True)
class Inspection:
    """What the headers of a model say, before it is converted.

    `refused` is why the converters would not take it, "" if they would. `kv_values` are the numbers that a token adds
    to the KV cache, `quantised` is whether some matrix has fewer bits than float16.
    """

    architecture: str = ""
    kind: str = ""
    parameters: int = 0
    context_tokens: int = 0
    kv_values: int = 0
    quantised: bool = False
    refused: str = ""
    recipes: Mapping[str, RecipeCost] = field(default_factory=dict)
