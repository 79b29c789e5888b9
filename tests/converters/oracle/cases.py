"""The models of the oracle.

Sizes are as small as the kernels allow. Numbers that published models leave neutral, or that only matter after
thousands of tokens (windows, soft caps, long context factors), are chosen so that they matter within 48 tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tests.tiny_model import CONTROL, tiny_tokens

WINDOW = 16
SHARED = {
    "vocab_size": len(tiny_tokens()),
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "bos_token_id": len(tiny_tokens()) - len(CONTROL),
    "eos_token_id": len(tiny_tokens()) - 1,
    "pad_token_id": None,
}
LONG_ROPE = {
    "type": "longrope",
    "short_factor": [1.0, 1.0, 1.1, 1.2, 1.3, 1.5, 1.7, 2.0],
    "long_factor": [1.0, 1.2, 1.5, 2.0, 3.0, 5.0, 8.0, 12.0],
}
GRANITE = {
    "embedding_multiplier": 6.0,
    "residual_multiplier": 0.5,
    "attention_multiplier": 0.15,
    "logits_scaling": 2.0,
}


@dataclass(frozen=True, slots=True)
class Case:
    """A model: its GGUF architecture, its transformers model type, and where its configuration differs from SHARED."""

    name: str
    architecture: str
    model_type: str
    config: dict[str, Any] = field(default_factory=dict)

    @property
    def full_config(self) -> dict[str, Any]:
        return SHARED | self.config

    def __str__(self) -> str:
        return self.name


_ALL = (
    Case("llama", "llama", "llama"),
    Case("llama-tied", "llama", "llama", {"tie_word_embeddings": True, "rope_theta": 500000.0}),
    Case("llama-biased", "llama", "llama", {"attention_bias": True, "mlp_bias": True}),
    Case("llama-linear", "llama", "llama", {"rope_scaling": {"rope_type": "linear", "factor": 4.0}}),
    Case(
        "llama-3",
        "llama",
        "llama",
        {
            "head_dim": 32,
            "tie_word_embeddings": True,
            "rope_scaling": {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            },
        },
    ),
    Case("mistral", "llama", "mistral", {"sliding_window": None, "head_dim": 32}),
    Case("mistral-window", "llama", "mistral", {"sliding_window": WINDOW}),
    Case("smollm3", "smollm3", "smollm3", {"num_hidden_layers": 5, "tie_word_embeddings": True}),
    Case("qwen2", "qwen2", "qwen2", {"tie_word_embeddings": True}),
    Case("qwen2-yarn", "qwen2", "qwen2", {"rope_scaling": {
        "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}}),
    Case("qwen3", "qwen3", "qwen3", {"head_dim": 32}),
    Case("qwen3-tied", "qwen3", "qwen3", {"head_dim": 16, "tie_word_embeddings": True}),
    Case("gemma", "gemma", "gemma", {"head_dim": 32, "tie_word_embeddings": True}),
    Case(
        "gemma2",
        "gemma2",
        "gemma2",
        {
            "head_dim": 32,
            "query_pre_attn_scalar": 32,
            "sliding_window": WINDOW,
            "attn_logit_softcapping": 4.0,
            "final_logit_softcapping": 5.0,
            "tie_word_embeddings": True,
            "num_hidden_layers": 4,
        },
    ),
    Case(
        "gemma3",
        "gemma3",
        "gemma3_text",
        {
            "head_dim": 32,
            "query_pre_attn_scalar": 32,
            "sliding_window": WINDOW,
            "tie_word_embeddings": True,
            "num_hidden_layers": 7,  # every sixth layer sees everything
        },
    ),
    Case(
        "gemma3-scaled",
        "gemma3",
        "gemma3_text",
        {
            "head_dim": 16,
            "query_pre_attn_scalar": 16,
            "sliding_window": WINDOW,
            "tie_word_embeddings": True,
            "num_hidden_layers": 7,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0},
            "final_logit_softcapping": 5.0,
        },
    ),
    Case("phi3", "phi3", "phi3", {"num_key_value_heads": 4, "pad_token_id": 0}),
    Case("phi3-window", "phi3", "phi3", {"sliding_window": WINDOW, "pad_token_id": 0}),
    Case("phi3-partial", "phi3", "phi3", {
        "num_attention_heads": 2, "partial_rotary_factor": 0.5, "tie_word_embeddings": True, "pad_token_id": 0}),
    Case("phi3-long", "phi3", "phi3", {
        "rope_scaling": LONG_ROPE, "original_max_position_embeddings": 32, "pad_token_id": 0}),
    Case("phi3-short", "phi3", "phi3", {
        "rope_scaling": LONG_ROPE, "original_max_position_embeddings": 128, "pad_token_id": 0}),
    Case("granite", "granite", "granite", GRANITE),
    Case("granite-tied", "granite", "granite", GRANITE | {"tie_word_embeddings": True}),
    Case(
        "qwen3moe",
        "qwen3moe",
        "qwen3_moe",
        {"head_dim": 32, "num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 128,
         "norm_topk_prob": True},
    ),
    Case("granitemoe", "granitemoe", "granitemoe",
         GRANITE | {"num_local_experts": 8, "num_experts_per_tok": 3, "intermediate_size": 64}),
    Case("granitemoe-shared", "granitemoe", "granitemoeshared",
         GRANITE | {"num_local_experts": 8, "num_experts_per_tok": 3, "intermediate_size": 64,
                    "shared_intermediate_size": 64}),
)  # fmt: skip
CASES = {case.name: case for case in _ALL}
