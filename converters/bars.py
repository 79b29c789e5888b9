"""What a conversion may lose, and the verdict on what it lost.

The bars of exact and compact are what "as good as the source" means here. Those of the other recipes are what they
cost on the calibration text, with room for models that suffer more: int8-rotated +0.02 nats with SmolLM2-135M and with
Gemma 3 270M, q4 +0.08 with SmolLM2-135M.

Only a model that can read the text is held to a bar: of one that guesses (random weights, another language) neither
likelihood nor first choices say anything. Such a model's figures are in the report, without a verdict.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from appliance.errors import ConversionFailed

READS_BELOW = 0.8  # of the NLL of a uniform guess: with less, a model knows something of the text


@dataclass(frozen=True, slots=True)
class Bar:
    """The most nats a token that a recipe may add, and the least share of tokens with the source's first choice."""

    nll: float
    top1: float


BARS: Mapping[str, Bar] = {
    "fp32": Bar(nll=0.001, top1=0.99),
    "exact": Bar(nll=0.01, top1=0.90),
    "compact": Bar(nll=0.01, top1=0.90),
    "int8-rotated": Bar(nll=0.08, top1=0.85),
    "q4": Bar(nll=0.25, top1=0.70),
}
VECTOR_BARS: Mapping[str, tuple[float, float]] = {"fp32": (0.99999, 0.001), "exact": (0.999, 0.05), "int8": (0.98, 0.2)}
"""Of encoders, the least mean cosine with the source's embeddings, of rerankers the most error of a score."""
F32_CACHE = "have its KV cache in f32 (PARAMETER kv_cache_type f32 in its Modelfile), or choose another recipe"
CACHE_IN_INT8 = Bar(nll=0.03, top1=0.05)  # how much lower the bars lie with keys and values in int8


def judged_vectors(fidelity: Mapping[str, float], recipe: str) -> str:
    """The verdict on the figures of fidelity.compare_vectors; raises ConversionFailed if they miss the bar."""
    cosine, error = VECTOR_BARS[recipe]
    if fidelity.get("cosine", 1.0) < cosine:
        raise ConversionFailed(
            f"the conversion's embeddings have a cosine of {fidelity['cosine']:.4f} with the source's; {recipe} must "
            f"have {cosine:g}: choose another recipe"
        )
    if fidelity.get("score_error", 0.0) > error:
        raise ConversionFailed(
            f"the conversion's scores are off by {fidelity['score_error']:.3f} standard deviations; {recipe} may be "
            f"by {error:g}: choose another recipe"
        )
    return f"held: a cosine of {cosine:g}" if "cosine" in fidelity else f"held: at most {error:g} deviations"


def judged(fidelity: Mapping[str, float], recipe: str, kv: str, vocab_size: int) -> str:
    """The verdict on the figures of fidelity.compare, in words; raises ConversionFailed if they miss the bar."""
    if "source_nll" not in fidelity:
        return "not judged: too little memory to run the source beside it"
    if fidelity["source_nll"] >= READS_BELOW * math.log(vocab_size):
        return "not judged: the source cannot read the text"
    bar, name = BARS[recipe], recipe
    if kv != "f32":
        bar = Bar(bar.nll + CACHE_IN_INT8.nll, bar.top1 - CACHE_IN_INT8.top1)
        name = f"{recipe} with a KV cache in {kv}"
    lost = fidelity["nll"] - fidelity["source_nll"]
    if lost > bar.nll or fidelity["top1"] < bar.top1:
        raise ConversionFailed(
            f"the conversion loses {lost:.4f} nats a token and has the source's first choice for "
            f"{100 * fidelity['top1']:.1f} % of them; {name} may lose {bar.nll:g} and must have {100 * bar.top1:g} %: "
            f"{'choose another recipe' if kv == 'f32' else F32_CACHE}"
        )
    return f"held: at most {bar.nll:+g}, at least {100 * bar.top1:g} %"
