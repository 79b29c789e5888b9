"""How a configuration stretches positions: rope_theta and rope_scaling, or rope_parameters of later versions.

Formulas after transformers' modeling_rope_utils.py, keys after llama.cpp's conversion.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from appliance.errors import UnsupportedModel
from converters.hugging_face.fields import Fields

Made = dict[str, NDArray[np.float32]]
KINDS = ("default", "linear", "llama3", "yarn", "longrope")
BASE = 10000.0


def read_rope(fields: Fields, size: int, base: float = BASE) -> tuple[dict[str, Any], Made]:
    """Metadata, and tensors of factors, for a rotation of the first `size` values of each head."""
    scaling = fields.inner("rope_scaling")
    base = fields.positive("rope_theta", base)
    if fields.any("rope_parameters"):
        scaling = fields.inner("rope_parameters")
        base = scaling.positive("rope_theta", base)
    metadata: dict[str, Any] = {"rope.freq_base": base, "rope.dimension_count": size}
    stretched, made = stretch(fields, scaling, base, size)
    return metadata | stretched, made


def stretch(fields: Fields, scaling: Fields, base: float, size: int) -> tuple[dict[str, Any], Made]:
    """What a `rope_scaling` object says; raises UnsupportedModel for kinds and keys that are not known."""
    kind = scaling.any("rope_type") or scaling.any("type", "default")
    scaling.ignore("type")
    made: Made = {}
    metadata: dict[str, Any] = {}
    if kind == "linear":
        metadata = {"rope.scaling.type": "linear", "rope.scaling.factor": scaling.positive("factor")}
    elif kind == "llama3":
        made = {"rope_freqs.weight": llama_3_factors(scaling, base, size)}
    elif kind == "yarn":
        metadata = _yarn(fields, scaling)
    elif kind in ("longrope", "su"):
        metadata, made = _longrope(fields, scaling)
    elif kind != "default":
        raise UnsupportedModel(f"{scaling.label}: type = {str(kind)[:40]}", KINDS)
    scaling.refuse_others()
    return metadata, made


def llama_3_factors(scaling: Fields, base: float, size: int) -> NDArray[np.float32]:
    """What divides each frequency [size / 2]: 1 for short waves, `factor` for long ones, and a blend between."""
    factor, original = scaling.positive("factor"), scaling.number("original_max_position_embeddings")
    low, high = scaling.number("low_freq_factor"), scaling.number("high_freq_factor")
    waves = 2 * np.pi * base ** (np.arange(0, size, 2) / size)
    blend = np.clip((original / waves - low) / (high - low), 0, 1)
    return (1 / ((1 - blend) / factor + blend)).astype(np.float32)


def _yarn(fields: Fields, scaling: Fields) -> dict[str, Any]:
    factor = scaling.positive("factor")
    trained = scaling.integer("original_max_position_embeddings", fields.integer("max_position_embeddings"))
    scaling.only("truncate", True)
    metadata = {
        "rope.scaling.type": "yarn",
        "rope.scaling.factor": factor,
        "rope.scaling.original_context_length": trained,
    }
    for key in ("beta_fast", "beta_slow"):
        if scaling.any(key) is not None:
            metadata[f"rope.scaling.yarn_{key}"] = scaling.number(key)
    if scaling.any("attention_factor") is not None:  # GGUF's comes on top of what follows from the factor
        metadata["rope.scaling.attn_factor"] = scaling.number("attention_factor") / (1 + 0.1 * math.log(factor))
    return metadata


def _longrope(fields: Fields, scaling: Fields) -> tuple[dict[str, Any], Made]:
    longest = fields.integer("max_position_embeddings")
    trained = fields.integer("original_max_position_embeddings", 0)
    trained = trained or scaling.integer("original_max_position_embeddings", longest)
    scaling.ignore("original_max_position_embeddings")
    factor = longest / trained if trained != longest else scaling.positive("factor", 1.0)
    scaling.ignore("factor")  # where both lengths are given, it follows from them
    plain = math.sqrt(1 + math.log(factor) / math.log(trained)) if factor > 1 else 1.0
    metadata = {
        "rope.scaling.type": "longrope",
        "rope.scaling.original_context_length": trained,
        "rope.scaling.attn_factor": scaling.number("attention_factor", plain),
    }
    made = {f"rope_factors_{name}.weight": scaling.numbers(f"{name}_factor") for name in ("long", "short")}
    return metadata, made
