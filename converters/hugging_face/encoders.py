"""Encoders and rerankers: what each family's configuration means in GGUF's keys.

A reranker's head comes under GGUF's names in every family: cls is the layer with an activation, cls.norm the norm
after it (ModernBERT), cls.output what gives the score. Heads of pre-training have no part in vectors or scores.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from converters.hugging_face.fields import Description, Fields

PRE_TRAINING = ("cls.", "lm_head.", "decoder.")
WITHOUT_PART = ("embeddings.position_ids",)
NOMIC_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "activation_function": ("swiglu",),
    "causal": (False,),
    "mlp_fc1_bias": (False,),
    "mlp_fc2_bias": (False,),
    "num_experts": (0,),
    "moe_every_n_layers": (0,),
    "parallel_block": (False,),
    "parallel_block_tied_norm": (False,),
    "prenorm": (False,),
    "qkv_proj_bias": (False,),
    "rotary_emb_fraction": (1.0, 1),
    "rotary_emb_interleaved": (False,),
    "rotary_emb_scale_base": (None,),
    "rotary_scaling_factor": (None,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "scale_attn_weights": (True,),
    "use_rms_norm": (False,),
}
# How the original code runs, and what its GPT-2 configuration has that BERT does not use.
NOMIC_WITHOUT_EFFECT = (
    "attn_pdrop", "dense_seq_output", "fused_bias_fc", "fused_dropout_add_ln", "last_layer_subset",
    "pad_vocab_size_multiple", "reorder_and_upcast_attn", "summary_activation", "summary_first_dropout",
    "summary_proj_to_labels", "summary_type", "summary_use_proj", "use_flash_attn", "use_xentropy",
)  # fmt: skip
MODERN_WITHOUT_EFFECT = (
    "attention_bias", "classifier_bias", "decoder_bias", "deterministic_flash_attn", "embedding_dropout",
    "initializer_cutoff_factor", "layer_norm_eps", "mlp_dropout", "norm_bias", "position_embedding_type",
    "reference_compile", "repad_logits_with_grad", "sparse_pred_ignore_index", "sparse_prediction",
)  # fmt: skip


def bert(fields: Fields) -> Description:
    metadata = _bert(fields)
    return Description("bert", metadata, rename=partial(_bert_name, _ranks(fields)))


def xlm_roberta(fields: Fields) -> Description:
    """Positions count from the one after padding's, so the table begins with rows that nothing looks up."""
    skipped = 1 + fields.integer("pad_token_id", 1)
    metadata = _bert(fields)
    metadata["context_length"] = max(metadata["context_length"] - skipped, 0)
    rows = {"position_embd.weight": skipped}
    return Description("bert", metadata, rename=partial(_roberta_name, _ranks(fields)), skipped_rows=rows)


def nomic_bert(fields: Fields) -> Description:
    """BERT with rotated heads and SwiGLU. Longer texts than it was trained on need a rope that changes with length."""
    for key, values in NOMIC_NEUTRAL.items():
        fields.only(key, *values)
    fields.ignore(*NOMIC_WITHOUT_EFFECT)
    longest = fields.integer("n_positions")
    trained = fields.integer("max_trained_positions", longest)
    metadata = {
        "vocab_size": fields.integer("vocab_size"),
        "block_count": fields.integer("n_layer"),
        "context_length": min(longest, trained),
        "embedding_length": fields.integer("n_embd"),
        "feed_forward_length": fields.integer("n_inner"),
        "attention.head_count": fields.integer("n_head"),
        "attention.layer_norm_epsilon": fields.number("layer_norm_epsilon"),
        "attention.causal": False,
        "rope.freq_base": fields.number("rotary_emb_base"),
    }
    fields.ignore("type_vocab_size")
    return Description("nomic-bert", metadata, rename=partial(_bert_name, _ranks(fields)))


def modern_bert(fields: Fields) -> Description:
    """Every third layer sees everything, the others a window, each kind with a rope of its own."""
    fields.only("hidden_activation", "gelu")
    fields.only("classifier_activation", "gelu")
    fields.ignore(*MODERN_WITHOUT_EFFECT)
    metadata: dict[str, Any] = {
        "vocab_size": fields.integer("vocab_size"),
        "block_count": fields.integer("num_hidden_layers"),
        "context_length": fields.integer("max_position_embeddings"),
        "embedding_length": fields.integer("hidden_size"),
        "feed_forward_length": fields.integer("intermediate_size"),
        "attention.head_count": fields.integer("num_attention_heads"),
        "attention.layer_norm_epsilon": fields.number("norm_eps", 1e-5),
        "attention.causal": False,
        "attention.sliding_window": fields.integer("local_attention", 128),
        "attention.sliding_window_pattern": fields.integer("global_attn_every_n_layers", 3),
        "rope.freq_base": fields.number("global_rope_theta", 160000.0),
        "rope.freq_base_swa": fields.number("local_rope_theta", 10000.0),
    }
    ranks = _ranks(fields)
    pooling = str(fields.any("classifier_pooling", "cls"))
    if ranks and pooling != "cls":  # which GGUF has no key for
        metadata["classifier.pooling"] = pooling
    return Description("modern-bert", metadata, rename=partial(_modern_name, ranks))


def _bert(fields: Fields) -> dict[str, Any]:
    fields.only("hidden_act", "gelu")
    fields.only("position_embedding_type", "absolute")
    fields.ignore("type_vocab_size")  # the table's rows tell
    return {
        "vocab_size": fields.integer("vocab_size"),
        "block_count": fields.integer("num_hidden_layers"),
        "context_length": fields.integer("max_position_embeddings"),
        "embedding_length": fields.integer("hidden_size"),
        "feed_forward_length": fields.integer("intermediate_size"),
        "attention.head_count": fields.integer("num_attention_heads"),
        "attention.layer_norm_epsilon": fields.number("layer_norm_eps", 1e-12),
        "attention.causal": False,
    }


def _ranks(fields: Fields) -> bool:
    """Whether the checkpoint is a reranker: it has a head that gives a score."""
    fields.ignore("tie_word_embeddings")  # with the head of pre-training
    return any(str(name).endswith("ForSequenceClassification") for name in fields.any("architectures") or ())


def _bert_name(ranks: bool, name: str) -> str:
    name = name.removeprefix("bert.")
    if name.startswith("pooler."):
        return name.replace("pooler.", "classifier.") if ranks else ""
    if name.startswith("classifier."):
        return name.replace("classifier.", "classifier.out_proj.")
    return "" if name.startswith((*PRE_TRAINING, *WITHOUT_PART)) else name


def _roberta_name(ranks: bool, name: str) -> str:
    name = name.removeprefix("roberta.")
    if name.startswith("pooler."):  # classification has layers of its own
        return ""
    return "" if name.startswith((*PRE_TRAINING, *WITHOUT_PART)) else name


def _modern_name(ranks: bool, name: str) -> str:
    name = name.removeprefix("model.")
    if name.startswith("head."):
        return name if ranks else ""
    if name.startswith("classifier."):
        return name.replace("classifier.", "classifier.out_proj.")
    return "" if name.startswith(PRE_TRAINING) else name


ENCODERS: Mapping[str, Callable[[Fields], Description]] = {
    "bert": bert,
    "xlm-roberta": xlm_roberta,
    "nomic_bert": nomic_bert,
    "modernbert": modern_bert,
}
