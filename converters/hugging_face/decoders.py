"""Decoders: what each family's configuration means in GGUF's keys.

Defaults are those of transformers' configuration classes, where published files rely on them. What a GGUF of the
architecture implies is written only where a configuration differs from it, so that it is refused where it is not known.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from appliance.errors import UnsupportedModel
from converters.hugging_face.fields import Description, Fields
from converters.hugging_face.rope import Made, read_rope, stretch

SLIDING, FULL = "sliding_attention", "full_attention"
GEMMA_3: Mapping[str, Any] = {
    "vocab_size": 262208, "max_position_embeddings": 131072, "num_attention_heads": 8, "num_key_value_heads": 4,
    "head_dim": 256, "rms_norm_eps": 1e-6, "query_pre_attn_scalar": 256, "rope_theta": 1e6,
}  # fmt: skip
"""Published multimodal files name only some of these."""
GEMMA_3_FULL_EVERY = 6
GEMMA_3_LOCAL_BASE = 10000.0
SMOLLM_3_PLAIN_EVERY = 4
NOT_TEXT = ("vision_tower.", "multi_modal_projector.")
NOT_TEXT_KEYS = ("vision_config", "mm_tokens_per_image", "image_token_index", "boi_token_index", "eoi_token_index",
                 "image_token_id", "boi_token_id", "eoi_token_id")  # fmt: skip


def llama(fields: Fields) -> Description:
    metadata, made = _decoder(fields)
    fields.only("hidden_act", "silu")
    fields.only("rope_interleaved", False)
    return Description("llama", metadata | _halves(), made, _tied(fields, False))


def mistral(fields: Fields) -> Description:
    """Llama with a window, in GGUF too."""
    metadata, made = _decoder(fields)
    fields.only("hidden_act", "silu")
    return Description("llama", metadata | _halves() | _window(fields), made, _tied(fields, False))


def smollm_3(fields: Fields) -> Description:
    """Every fourth layer does not rotate."""
    metadata, made = _decoder(fields)
    fields.only("hidden_act", "silu")
    layers = metadata["block_count"]
    usual = [int((index + 1) % SMOLLM_3_PLAIN_EVERY != 0) for index in range(layers)]
    fields.only("no_rope_layers", usual)
    fields.only("no_rope_layer_interval", SMOLLM_3_PLAIN_EVERY)
    fields.only("use_sliding_window", False)
    metadata |= _halves() | _windows(fields, layers, [False] * layers)
    return Description("smollm3", metadata, made, _tied(fields, True))


def qwen_2(fields: Fields) -> Description:
    return _qwen(fields, "qwen2", None)


def qwen_3(fields: Fields) -> Description:
    return _qwen(fields, "qwen3", 128)


def qwen_3_moe(fields: Fields) -> Description:
    """Experts in every layer, their weights normalised to 1."""
    fields.only("decoder_sparse_step", 1)
    fields.only("mlp_only_layers", [])
    # transformers' default is False, and a GGUF implies True: a file that is silent is refused
    if not fields.flag("norm_topk_prob", False):
        raise UnsupportedModel("config.json: norm_topk_prob = False", ("True",))
    description = _qwen(fields, "qwen3moe", 128)
    description.metadata.update(
        {
            "expert_count": fields.integer("num_experts"),
            "expert_used_count": fields.integer("num_experts_per_tok"),
            "expert_feed_forward_length": fields.integer("moe_intermediate_size"),
        }
    )
    return description


def gemma(fields: Fields) -> Description:
    metadata, made = _decoder(fields, head_dim=256)
    return _gemma(fields, "gemma", metadata, made)


def gemma_2(fields: Fields) -> Description:
    """Every second layer has a window, the first too."""
    metadata, made = _decoder(fields, head_dim=256)
    layers = metadata["block_count"]
    metadata |= _windows(fields, layers, [index % 2 == 0 for index in range(layers)], 4096)
    for key, usual in (("attn_logit_softcapping", 50.0), ("final_logit_softcapping", 30.0)):
        metadata[key] = fields.number(key, usual)
    return _gemma(fields, "gemma2", metadata, made)


def gemma_3(fields: Fields) -> Description:
    """The text model. All layers but every sixth have a window, and a rope of their own."""
    fields.assume(GEMMA_3)
    metadata, made = _decoder(fields, rope=False)
    rotation, made = _gemma_3_rope(fields, metadata["attention.key_length"])
    metadata |= rotation
    layers = metadata["block_count"]
    every = fields.integer("sliding_window_pattern", fields.integer("_sliding_window_pattern", GEMMA_3_FULL_EVERY))
    usual = [(index + 1) % GEMMA_3_FULL_EVERY != 0 for index in range(layers)]
    given = [(index + 1) % max(every, 1) != 0 for index in range(layers)]
    metadata |= _windows(fields, layers, usual, 4096, given)
    for key in ("attn_logit_softcapping", "final_logit_softcapping"):
        if fields.any(key) is not None:
            metadata[key] = fields.number(key)
    fields.only("use_bidirectional_attention", False)
    return _gemma(fields, "gemma3", metadata, made)


def gemma_3_multimodal(fields: Fields) -> Description:
    """The text model inside; images are not read."""
    fields.ignore(*NOT_TEXT_KEYS)
    inner = fields.inner("text_config")
    description = gemma_3(inner)
    inner.refuse_others()
    fields.ignore("tie_word_embeddings")
    return description


def phi_3(fields: Fields) -> Description:
    """A part of each head may rotate; query, key and value are one matrix, gate and up another."""
    metadata, made = _decoder(fields, rotated=fields.number("partial_rotary_factor", 1.0))
    fields.only("hidden_act", "silu")
    fields.ignore("original_max_position_embeddings")
    for key, value in (("full_attn_mod", 1), ("interpolate_factor", 1), ("lm_head_bias", False)):
        fields.only(key, value)
    return Description("phi3", metadata | _window(fields), made, _tied(fields, False))


def granite(fields: Fields) -> Description:
    metadata, made = _granite(fields)
    return Description("granite", metadata, made, _tied(fields, False))


def granite_moe(fields: Fields) -> Description:
    metadata, made = _granite(fields)
    fields.only("position_embedding_type", "rope")
    metadata["expert_count"] = fields.integer("num_local_experts")
    metadata["expert_used_count"] = fields.integer("num_experts_per_tok")
    return Description("granitemoe", metadata, made, _tied(fields, False))


def granite_moe_shared(fields: Fields) -> Description:
    """With an expert that all tokens use."""
    description = granite_moe(fields)
    if shared := fields.integer("shared_intermediate_size", 0):
        description.metadata["expert_shared_feed_forward_length"] = shared
    return description


def _decoder(
    fields: Fields, head_dim: int | None = None, rotated: float = 1.0, rope: bool = True
) -> tuple[dict[str, Any], Made]:
    """What all have: dimensions, and the rope of the share `rotated` of each head."""
    heads, hidden = fields.integer("num_attention_heads"), fields.integer("hidden_size")
    size = fields.integer("head_dim", head_dim or hidden // max(heads, 1))
    metadata: dict[str, Any] = {
        "vocab_size": fields.integer("vocab_size"),
        "block_count": fields.integer("num_hidden_layers"),
        "context_length": fields.integer("max_position_embeddings"),
        "embedding_length": hidden,
        "feed_forward_length": fields.integer("intermediate_size"),
        "attention.head_count": heads,
        "attention.head_count_kv": fields.integer("num_key_value_heads", heads),
        "attention.key_length": size,
        "attention.value_length": size,
        "attention.layer_norm_rms_epsilon": fields.number("rms_norm_eps", 1e-6),
    }
    if not rope:
        return metadata, {}
    rotation, made = read_rope(fields, int(size * rotated))
    return metadata | rotation, made


def _halves() -> dict[str, Any]:
    """Checkpoints rotate the two halves of a head; GGUF files of these families are rearranged to neighbours."""
    return {"rope.interleaved": False}


def _tied(fields: Fields, usual: bool) -> bool:
    return fields.flag("tie_word_embeddings", usual)


def _window(fields: Fields) -> dict[str, Any]:
    """A window of all layers, if there is one."""
    window = fields.integer("sliding_window", 0)
    return {"attention.sliding_window": window} if window else {}


def _windows(
    fields: Fields, layers: int, usual: list[bool], window: int = 0, given: list[bool] | None = None
) -> dict[str, Any]:
    """Windows of some layers: those that layer_types names, else `given`, else the `usual` ones of the architecture."""
    kinds = fields.any("layer_types")
    if kinds is not None:
        if not isinstance(kinds, list) or len(kinds) != layers or not {*map(str, kinds)} <= {SLIDING, FULL}:
            raise UnsupportedModel(f"config.json: layer_types = {str(kinds)[:80]}", (SLIDING, FULL))
        given = [kind == SLIDING for kind in kinds]
    sliding = usual if given is None else given
    window = fields.integer("sliding_window", window)
    metadata: dict[str, Any] = {"attention.sliding_window": window} if any(sliding) else {}
    return metadata | ({"attention.sliding_window_pattern": sliding} if sliding != usual else {})


def _qwen(fields: Fields, architecture: str, head_dim: int | None) -> Description:
    metadata, made = _decoder(fields, head_dim)
    fields.only("hidden_act", "silu")
    fields.only("use_mrope", False)
    layers = metadata["block_count"]
    from_layer = fields.integer("max_window_layers", layers)
    windowed = fields.flag("use_sliding_window", False)
    given = [windowed and index >= from_layer for index in range(layers)]
    metadata |= _windows(fields, layers, [False] * layers, given=given)
    return Description(architecture, metadata, made, _tied(fields, False))


def _gemma(fields: Fields, architecture: str, metadata: dict[str, Any], made: Made) -> Description:
    fields.only("hidden_activation", "gelu_pytorch_tanh")
    fields.ignore("hidden_act")  # older files name both, and hidden_activation counts
    size = metadata["attention.key_length"]
    usual = size if architecture == "gemma" else 256
    if (scalar := fields.positive("query_pre_attn_scalar", usual)) != size:
        metadata["attention.scale"] = scalar**-0.5
    return Description(architecture, metadata, made, _tied(fields, True), _text_name, gains_plus_one=True)


def _gemma_3_rope(fields: Fields, size: int) -> tuple[dict[str, Any], Made]:
    """The rope of the layers that see everything; that of the others only where it is not the usual one."""
    local = fields.number("rope_local_base_freq", GEMMA_3_LOCAL_BASE)
    if fields.any("rope_parameters"):
        both = fields.inner("rope_parameters")
        inner, outer = both.inner(SLIDING), both.inner(FULL)
        both.refuse_others()
        inner.only("rope_type", "default")
        local, base = inner.number("rope_theta", local), outer.number("rope_theta", fields.number("rope_theta"))
        inner.refuse_others()
        scaling, made = stretch(fields, outer, base, size)
        metadata = {"rope.freq_base": base, "rope.dimension_count": size} | scaling
    else:
        metadata, made = read_rope(fields, size)
    return metadata | ({"rope.freq_base_swa": local} if local != GEMMA_3_LOCAL_BASE else {}), made


def _text_name(name: str) -> str:
    """The name that a tensor of a multimodal checkpoint has in one of the text model alone; "" for other parts."""
    inside = name.removeprefix("model.")  # later versions keep the parts within "model"
    if inside.startswith(NOT_TEXT):
        return ""
    if inside.startswith("language_model."):
        name = inside
    if name.startswith("language_model."):
        inner = name.removeprefix("language_model.")
        return inner if inner.startswith(("model.", "lm_head.")) else f"model.{inner}"
    return name


def _granite(fields: Fields) -> tuple[dict[str, Any], Made]:
    metadata, made = _decoder(fields)
    fields.only("hidden_act", "silu")
    metadata |= _halves()
    for key, named in (
        ("attention.scale", "attention_multiplier"),
        ("embedding_scale", "embedding_multiplier"),
        ("residual_scale", "residual_multiplier"),
        ("logit_scale", "logits_scaling"),
    ):
        metadata[key] = fields.number(named, 1.0)
    return metadata, made


DECODERS: Mapping[str, Callable[[Fields], Description]] = {
    "llama": llama,
    "mistral": mistral,
    "smollm3": smollm_3,
    "qwen2": qwen_2,
    "qwen3": qwen_3,
    "qwen3_moe": qwen_3_moe,
    "gemma": gemma,
    "gemma2": gemma_2,
    "gemma3_text": gemma_3,
    "gemma3": gemma_3_multimodal,
    "phi3": phi_3,
    "granite": granite,
    "granitemoe": granite_moe,
    "granitemoeshared": granite_moe_shared,
}
