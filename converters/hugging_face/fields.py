"""Reading a configuration so that nothing in it is passed over: what is not read and may matter is refused by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from appliance.errors import ModelFileError, UnsupportedModel

# Training, generation, labels, storage: none of these changes what a forward pass computes. Biases show in the tensors.
WITHOUT_EFFECT = frozenset({
    "_name_or_path", "architectures", "auto_map", "dtype", "model_type", "tokenizer_class", "torch_dtype",
    "transformers_version",
    "unsloth_fixed", "unsloth_version",
    "bos_token_id", "cls_token_id", "decoder_start_token_id", "eos_token_id", "forced_bos_token_id",
    "forced_eos_token_id", "mask_token_id",
    "pad_token_id", "sep_token_id", "unk_token_id",
    "bad_words_ids", "begin_suppress_tokens", "diversity_penalty", "do_sample", "early_stopping",
    "encoder_no_repeat_ngram_size",
    "exponential_decay_length_penalty", "length_penalty", "max_length", "min_length", "no_repeat_ngram_size",
    "num_beam_groups", "num_beams",
    "num_return_sequences", "remove_invalid_values", "repetition_penalty", "suppress_tokens", "temperature", "top_k",
    "top_p", "typical_p",
    "finetuning_task", "id2label", "label2id", "prefix", "problem_type", "task_specific_params",
    "_attn_implementation", "_attn_implementation_autoset", "attn_implementation", "cache_implementation",
    "gradient_checkpointing",
    "output_attentions", "output_hidden_states", "output_router_logits", "output_scores", "return_dict",
    "return_dict_in_generate",
    "tf_legacy_loss", "torchscript", "use_bfloat16", "use_cache",
    "attention_bias", "attention_dropout", "attention_probs_dropout_prob", "classifier_dropout", "embd_pdrop",
    "hidden_dropout_prob",
    "initializer_factor", "initializer_range", "mlp_bias", "pretraining_tp", "resid_pdrop", "router_aux_loss_coef",
    "_model_name_or_path", "is_llama_config", "sbert_ce_default_activation_function", "sentence_transformers",
    "transformers.js_config",
})  # fmt: skip
# Of every model; a key that has another value changes the computation.
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "add_cross_attention": (False,),
    "chunk_size_feed_forward": (0,),  # 0 or not: the same results, in pieces
    "cross_attention_hidden_size": (None,),
    "is_decoder": (False,),
    "is_encoder_decoder": (False,),
    "pruned_heads": ({},),
    "tie_encoder_decoder": (False,),
}


@dataclass(frozen=True, slots=True)
class Description:
    """A model as its configuration tells it.

    `metadata` has GGUF's keys, in a family's function without the architecture's name before them. `made` are tensors
    that the configuration describes. `rename` turns a checkpoint's name into one that gguf's map knows, "" for a tensor
    that has no part in the computation. `gains_plus_one`: norms multiply by 1 + weight, which GGUF adds up.
    `skipped_rows` are, by GGUF name, rows that a table begins with and nothing looks up.
    """

    architecture: str
    metadata: dict[str, Any]
    made: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    tied: bool = False
    rename: Callable[[str], str] = lambda name: name
    gains_plus_one: bool = False
    skipped_rows: Mapping[str, int] = field(default_factory=dict)

    def with_metadata(self, metadata: dict[str, Any]) -> Description:
        """The same with other metadata."""
        return replace(self, metadata=metadata)


class Fields:
    """An object of a configuration, called `label` in errors; remembers what was read.

    A value of the wrong type raises ModelFileError, as does a missing one without a default. null is a missing value.
    """

    def __init__(self, config: Mapping[str, Any], label: str = "config.json") -> None:
        self.config = {key: value for key, value in config.items() if value is not None}
        self.label = label
        self._read: set[str] = set()

    def assume(self, defaults: Mapping[str, Any]) -> None:
        """Have these values for keys that are missing."""
        self.config = {**defaults, **self.config}

    def integer(self, key: str, default: int | None = None) -> int:
        """A whole number from 0 on."""
        value = self._required(key, default)
        if type(value) is not int or value < 0:
            raise self._damaged(key, value)
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A finite number."""
        value = self._required(key, default)
        if type(value) not in (int, float) or not abs(value) < float("inf"):
            raise self._damaged(key, value)
        return float(value)

    def positive(self, key: str, default: float | None = None) -> float:
        """A finite number above 0."""
        value = self.number(key, default)
        if value <= 0:
            raise self._damaged(key, value)
        return value

    def numbers(self, key: str) -> NDArray[np.float32]:
        """A list of finite numbers."""
        value = self._required(key, None)
        if not isinstance(value, list) or not all(type(item) in (int, float) for item in value):
            raise self._damaged(key, value)
        array = np.array(value, np.float32)
        if not np.isfinite(array).all():
            raise self._damaged(key, value)
        return array

    def flag(self, key: str, default: bool) -> bool:
        """A truth value."""
        value = self._required(key, default)
        if type(value) is not bool:
            raise self._damaged(key, value)
        return value

    def inner(self, key: str) -> Fields:
        """The object under a key, empty if there is none."""
        value = self._required(key, {})
        if not isinstance(value, dict):
            raise self._damaged(key, value)
        return Fields(value, f"{self.label}: {key}")

    def any(self, key: str, default: Any = None) -> Any:
        """The value as it is."""
        self._read.add(key)
        return self.config.get(key, default)

    def only(self, key: str, *values: Any) -> None:
        """Raise UnsupportedModel unless the key is missing or has one of these values."""
        value = self.any(key, values[0])
        if value not in values:
            raise UnsupportedModel(f"{self.label}: {key} = {str(value)[:40]}", tuple(map(str, values)))

    def ignore(self, *keys: str) -> None:
        """These change nothing, whatever their values."""
        self._read.update(keys)

    def refuse_others(self) -> None:
        """Raise UnsupportedModel for the first key that was neither read nor is without effect."""
        for key, values in NEUTRAL.items():
            self.only(key, *values)
        for key, value in self.config.items():
            if key not in self._read and key not in WITHOUT_EFFECT:
                known = tuple(sorted(self._read - NEUTRAL.keys()))
                raise UnsupportedModel(f"{self.label}: {key[:80]} = {str(value)[:40]}", known)

    def _required(self, key: str, default: Any) -> Any:
        value = self.any(key, default)
        if value is None:
            raise ModelFileError(f"{self.label} has no {key}")
        return value

    def _damaged(self, key: str, value: Any) -> ModelFileError:
        return ModelFileError(f"{self.label} is damaged: {key} is {str(value)[:40]}")
