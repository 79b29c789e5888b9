"""A case's model in transformers: its weights, its folder, its logits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGMLQuantizationType, quants
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from tests.converters.oracle.cases import Case
from tests.converters.oracle.writing import write_gguf
from tests.tiny_model import CHAT_TEMPLATE, CONTROL, MERGES, tiny_tokens

TOKENS = 48
PROMPT = 40  # of these, tokens that are a prompt; the others follow one by one
SEED = 7
torch.set_num_threads(1)  # models as small as these only wait for a second one


@dataclass(frozen=True, slots=True)
class Reference:
    """A model on disk in both forms, tokens, and what transformers makes of them in float32.

    `logits` [TOKENS, vocabulary] are of all tokens at once, `continued` [TOKENS - PROMPT, vocabulary] of those after
    the prompt, one at a time over transformers' cache.
    """

    case: Case
    folder: Path
    gguf: Path
    ids: list[int]
    logits: np.ndarray
    continued: np.ndarray


Make = Callable[..., Reference]
"""Makes the model of a case, by its name and the type of its matrices."""


def make(case: Case, folder: Path, tensor_type: str = "F32") -> Reference:
    """Make a case's model in `folder`: folder/hf, with its tokenizer, and folder/model.gguf with such matrices."""
    config = AutoConfig.for_model(case.model_type, **case.full_config)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float32).eval()
    weights = random_weights(model, case, tensor_type)
    ids = [int(token) for token in np.random.default_rng(SEED).integers(0, len(tiny_tokens()), TOKENS)]
    logits, continued = run(model, ids)
    model.save_pretrained(folder / "hf")
    tokenizer().save_pretrained(folder / "hf")
    gguf = write_gguf(folder / "model.gguf", case.architecture, config.to_dict(), weights, tensor_type)
    return Reference(case, folder / "hf", gguf, ids, logits, continued)


def random_weights(model: Any, case: Case, tensor_type: str) -> dict[str, np.ndarray]:
    """Give every parameter random values that keep activations near a size of 1; returns them by their names.

    Gemma's norms multiply by 1 + weight, the others' by the weight. Matrices hold what `tensor_type` can say exactly.
    """
    kind = GGMLQuantizationType[tensor_type]
    rng = np.random.default_rng(SEED)
    centre = 0.0 if case.model_type.startswith("gemma") else 1.0
    weights: dict[str, np.ndarray] = {}
    for name, parameter in sorted(model.named_parameters()):
        shape = tuple(parameter.shape)
        if name.endswith("norm.weight"):
            values = rng.uniform(centre - 0.5, centre + 0.5, shape)
        elif len(shape) == 1:
            values = rng.standard_normal(shape) / 4
        else:
            values = 1.5 * rng.standard_normal(shape) / np.sqrt(shape[-1])
        weights[name] = values.astype(np.float32)
        if len(shape) > 1:
            weights[name] = quants.dequantize(quants.quantize(weights[name], kind), kind)
        parameter.data = torch.from_numpy(weights[name])
    model.tie_weights()
    return weights


@torch.inference_mode()
def run(model: Any, ids: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Logits of all tokens at once, and of those after the prompt one by one."""
    whole = model(torch.tensor([ids])).logits[0].numpy()
    state = model(torch.tensor([ids[:PROMPT]]), use_cache=True)
    steps = []
    for token in ids[PROMPT:]:
        state = model(torch.tensor([[token]]), past_key_values=state.past_key_values, use_cache=True)
        steps.append(state.logits[0, -1].numpy())
    return whole, np.stack(steps)


def tokenizer() -> PreTrainedTokenizerFast:
    """The tiny vocabulary, byte-level, as transformers saves it."""
    vocabulary = {token: index for index, token in enumerate(tiny_tokens())}
    merges = [(left, right) for left, _, right in (merge.partition(" ") for merge in MERGES)]
    fast = Tokenizer(models.BPE(vocabulary, merges))
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = decoders.ByteLevel()
    fast.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in CONTROL])
    return PreTrainedTokenizerFast(
        tokenizer_object=fast, bos_token=CONTROL[0], eos_token=CONTROL[2], chat_template=CHAT_TEMPLATE
    )
