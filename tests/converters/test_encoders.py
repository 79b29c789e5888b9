"""The encoders' graphs against transformers' models of random weights, with rows of several lengths in a batch.

nomic-bert, which this transformers does not have, is held against its definition, written below in torch.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import MODEL_ARCH
from gguf.tensor_mapping import get_tensor_name_map
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    XLMRobertaConfig,
    XLMRobertaForSequenceClassification,
    XLMRobertaModel,
)

from appliance.bundle import ENCODER_TARGETS, Bundle, read_description
from appliance.engine.encoder import Encoder, Pair
from appliance.errors import ModelFileError, NotGGUF, UnsupportedModel
from converters.bundle import convert
from tests.converters.card import provider_for
from tests.converters.running import HALF, relative_error
from tests.tiny_encoder import VOCABULARY, random_bert, write_gguf, write_tiny_encoder

RNG = np.random.default_rng(5)
TEXTS = [[int(token) for token in RNG.integers(4, VOCABULARY, length)] for length in (3, 40, 17, 46, 1, 33)]
TYPES = [[0] * (len(text) // 2) + [1] * (len(text) - len(text) // 2) for text in TEXTS]
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "max_position_embeddings": 48,
}
BERT = SIZES | {"num_hidden_layers": 2}
XLM = BERT | {"max_position_embeddings": 50, "type_vocab_size": 1, "pad_token_id": 1, "layer_norm_eps": 1e-5}
MODERN = SIZES | {
    "num_hidden_layers": 5,  # the fourth sees everything again
    "local_attention": 16,
    "attn_implementation": "eager",
    "reference_compile": False,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "cls_token_id": 2,
    "eos_token_id": 3,
    "sep_token_id": 3,
}
MODERN_KEYS = {
    "attention.sliding_window": 16,
    "attention.sliding_window_pattern": 3,
    "rope.freq_base": 160000.0,
    "rope.freq_base_swa": 10000.0,
}
POOLED: Mapping[int, Callable[[Any], Any]] = {
    1: lambda states: states.mean(0),
    2: lambda states: states[0],
    3: lambda states: states[-1],
}
RANK = 4
Make = Callable[..., tuple[Encoder, Bundle]]


@pytest.fixture(params=ENCODER_TARGETS)
def target(request: pytest.FixtureRequest) -> str:
    """Every target that encoders are built for."""
    return str(request.param)


@pytest.fixture
def make(tmp_path: Path) -> Any:
    opened: list[Encoder] = []

    def make(
        architecture: str, tensors: Mapping[str, np.ndarray], recipe: str = "fp32", target: str = "cpu", **more: Any
    ) -> Any:
        source = write_gguf(tmp_path / "tiny.gguf", architecture, tensors, heads=4, **more)
        folder = tmp_path / f"bundle-{len(opened)}"
        bundle = convert(source, folder, recipe, target=target)
        assert read_description(folder) == bundle
        opened.append(Encoder(folder, bundle, provider=provider_for(target), threads=1))
        return opened[-1], bundle

    yield make
    for encoder in opened:
        encoder.close()


def randomise(model: torch.nn.Module) -> None:
    generator = torch.Generator().manual_seed(7)
    for name, parameter in model.named_parameters():
        values = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim == 2:
            parameter.data = 1.5 * values / parameter.shape[-1] ** 0.5
        else:
            parameter.data = values / 4 + (1.0 if name.endswith("weight") else 0.0)


def renamed(model: torch.nn.Module, kind: MODEL_ARCH, *replacements: tuple[str, str]) -> dict[str, np.ndarray]:
    """The model's tensors by their GGUF names, after replacements in their own; every one has such a name."""
    names, tensors = get_tensor_name_map(kind, 5), {}
    for name, tensor in model.state_dict().items():
        for old, new in replacements:
            name = name.replace(old, new)
        known = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert known, name
        tensors[known] = tensor.numpy()
    return tensors


def modern(kind: str, **more: Any) -> Any:
    """A ModernBERT of transformers, whose import compiles, and warns."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import transformers.models.modernbert.modeling_modernbert as module

        config = module.ModernBertConfig(**MODERN, **more)
        config.num_labels = 1
        return made(getattr(module, kind), config)


def made(kind: Any, config: Any) -> Any:
    model = kind(config, False) if kind in (BertModel, XLMRobertaModel) else kind(config)
    randomise(model)
    return model.eval()


@torch.inference_mode()
def close(encoder: Encoder, target: str, expected: Callable[[Any], Any]) -> None:
    result = encoder.encode(TEXTS)
    for text, vector in zip(TEXTS, result, strict=True):
        same(vector, expected(torch.tensor([text])).numpy(), target)


def same(result: np.ndarray, expected: np.ndarray, target: str) -> None:
    """Equal in float32; for a target of float16, relative to what is expected."""
    if target == "cpu":
        np.testing.assert_allclose(result, expected, atol=1e-4)
    else:
        assert 0 < relative_error(result, expected) < HALF


@torch.inference_mode()
def scores_close(encoder: Encoder, target: str, expected: Callable[..., Any]) -> None:
    result = encoder.score([Pair(text, types) for text, types in zip(TEXTS, TYPES, strict=True)])
    logits = [expected(torch.tensor([t]), torch.tensor([y])).item() for t, y in zip(TEXTS, TYPES, strict=True)]
    assert np.std(logits) > 0.1
    same(result, np.array(logits), target)


@pytest.mark.proves(source="GGUF", architecture="bert")
@pytest.mark.parametrize("pooling", POOLED)
def test_bert(make: Make, target: str, pooling: int) -> None:
    model = made(BertModel, BertConfig(**BERT))
    encoder, bundle = make("bert", renamed(model, MODEL_ARCH.BERT), pooling=pooling, target=target)
    close(encoder, target, lambda ids: POOLED[pooling](model(ids).last_hidden_state[0]))
    assert (bundle.kind, bundle.kv_heads, bundle.heads, bundle.embedding_length) == ("encoder", 0, 4, 64)
    assert bundle.pooling == {1: "mean", 2: "cls", 3: "last"}[pooling]


@pytest.mark.proves(source="GGUF", architecture="bert")
def test_xlm_roberta(make: Make, target: str) -> None:
    model = made(XLMRobertaModel, XLMRobertaConfig(**XLM))
    tensors = renamed(model, MODEL_ARCH.BERT)
    tensors["position_embd.weight"] = tensors["position_embd.weight"][2:]
    encoder, _ = make("bert", tensors, epsilon=1e-5, pooling=2, target=target)
    close(encoder, target, lambda ids: model(ids).last_hidden_state[0, 0])


@pytest.mark.proves(source="GGUF", architecture="modern-bert")
@pytest.mark.parametrize("pooling", [1, 2])
def test_modernbert(make: Make, target: str, pooling: int) -> None:
    model = modern("ModernBertModel")
    tensors = renamed(model, MODEL_ARCH.MODERN_BERT)
    encoder, _ = make("modern-bert", tensors, epsilon=1e-5, pooling=pooling, metadata=MODERN_KEYS, target=target)
    close(encoder, target, lambda ids: POOLED[pooling](model(ids).last_hidden_state[0]))


@pytest.mark.proves(source="GGUF", architecture="nomic-bert")
def test_nomic_bert(make: Make, target: str) -> None:
    tensors = random_nomic()
    encoder, _ = make("nomic-bert", tensors, metadata={"rope.freq_base": 1000.0}, target=target)
    close(encoder, target, lambda ids: nomic_states(tensors, ids[0]).mean(0))


@pytest.mark.proves(source="GGUF", architecture="bert")
def test_bert_reranker(make: Make, target: str) -> None:
    config = BertConfig(**BERT)
    config.num_labels = 1
    model = made(BertForSequenceClassification, config)
    heads = (("bert.", ""), ("classifier.", "classifier.out_proj."), ("pooler.", "classifier."))
    encoder, bundle = make("bert", renamed(model, MODEL_ARCH.BERT, *heads), pooling=RANK, target=target)
    assert (bundle.kind, bundle.pooling, bundle.embedding_length) == ("reranker", "cls", 0)
    scores_close(encoder, target, lambda ids, types: model(ids, token_type_ids=types).logits)


@pytest.mark.proves(source="GGUF", architecture="bert")
def test_xlm_roberta_reranker(make: Make, target: str) -> None:
    config = XLMRobertaConfig(**XLM)
    config.num_labels = 1
    model = made(XLMRobertaForSequenceClassification, config)
    tensors = renamed(model, MODEL_ARCH.BERT, ("roberta.", ""))
    tensors["position_embd.weight"] = tensors["position_embd.weight"][2:]
    encoder, _ = make("bert", tensors, epsilon=1e-5, pooling=RANK, target=target)
    scores_close(encoder, target, lambda ids, types: model(ids).logits)


@pytest.mark.proves(source="GGUF", architecture="modern-bert")
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_modernbert_reranker(make: Make, target: str, pooling: str) -> None:
    model = modern("ModernBertForSequenceClassification", classifier_pooling=pooling)
    tensors = renamed(model, MODEL_ARCH.MODERN_BERT, ("model.", ""), ("classifier.", "classifier.out_proj."))
    keys = MODERN_KEYS | ({"classifier.pooling": pooling} if pooling != "cls" else {})
    encoder, _ = make("modern-bert", tensors, epsilon=1e-5, pooling=RANK, metadata=keys, target=target)
    scores_close(encoder, target, lambda ids, types: model(ids).logits)


@pytest.mark.parametrize("recipe", ["int8", "exact"])
@pytest.mark.parametrize("tensor_type", ["F32", "F16", "Q8_0"])
def test_integers_stay_close(make: Make, recipe: str, tensor_type: str) -> None:
    whole, _ = make("bert", random_bert())
    rounded, bundle = make("bert", random_bert(), recipe, tensor_type=tensor_type)
    expected, result = whole.encode(TEXTS), rounded.encode(TEXTS)
    cosines = (expected * result).sum(1) / np.linalg.norm(expected, axis=1) / np.linalg.norm(result, axis=1)
    assert cosines.min() > 0.998
    if recipe == "int8":
        assert bundle.report["fidelity"]["cosine"] > 0.998


@pytest.mark.parametrize(("recipe", "target"), [("int8", "cuda"), ("fp32", "directml")])
def test_refuses_what_a_target_has_no_kernels_for(make: Make, recipe: str, target: str) -> None:
    with pytest.raises(UnsupportedModel, match=target):
        make("bert", random_bert(), recipe, target)


def test_activations_beyond_float16_are_an_error_at_the_load(make: Make) -> None:
    tensors = random_bert()
    tensors["blk.1.ffn_up.bias"] += 3e4
    tensors["blk.1.ffn_down.weight"] *= 1e3
    make("bert", tensors)
    with pytest.raises(ModelFileError, match="too large for float16"):
        make("bert", tensors, target="cuda")


def test_a_rounded_text_does_not_depend_on_its_batch(make: Make) -> None:
    encoder, _ = make("bert", random_bert(), "int8")
    alone = np.concatenate([encoder.encode([text]) for text in TEXTS])
    np.testing.assert_allclose(encoder.encode(TEXTS), alone, atol=0.05)
    louder = [[token] * 40 for token in range(4, 20)]
    equal = [text for text in TEXTS if len(text) == 40]
    np.testing.assert_allclose(encoder.encode([*equal, *louder])[0], encoder.encode(equal)[0], atol=1e-5)


@pytest.mark.parametrize(
    ("metadata", "error", "message"),
    [
        ({"pooling_type": 0}, UnsupportedModel, "pooling_type = 0 is not supported; supported: 1 .mean"),
        ({"attention.causal": True}, UnsupportedModel, "causal"),
        ({"attention.max_alibi_bias": 8.0}, UnsupportedModel, "max_alibi_bias"),
        ({"rope.freq_base": 1e4}, UnsupportedModel, "bert.rope.freq_base"),
        ({"attention.head_count_kv": 2}, UnsupportedModel, "head_count_kv"),
        ({"attention.layer_norm_epsilon": None}, NotGGUF, "layer_norm_epsilon is missing"),
        ({"pooling_type": RANK}, NotGGUF, "cls.output.weight is missing"),
    ],
    ids=str,
)
def test_refuses_what_the_graph_would_ignore(
    make: Make, metadata: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make("bert", random_bert(), metadata=metadata)


def test_refuses_classifiers_and_other_architectures(make: Make) -> None:
    labels = {"cls.output.weight": np.ones((3, 64)), "cls.output.bias": np.ones(3)}
    with pytest.raises(UnsupportedModel, match="a classifier of 3 labels"):
        make("bert", random_bert() | labels, pooling=RANK)
    with pytest.raises(UnsupportedModel, match="'nomic-bert-moe'"):
        make("nomic-bert-moe", random_bert())


@pytest.mark.parametrize("recipe", ["compact", "int8-rotated", "q4"])
def test_refuses_recipes_of_decoders(tmp_path: Path, recipe: str) -> None:
    with pytest.raises(UnsupportedModel, match="embeds or ranks"):
        write_tiny_encoder(tmp_path / "bundle", recipe)


def random_nomic(layers: int = 2, hidden: int = 64, inner: int = 96) -> dict[str, np.ndarray]:
    """The tensors of a nomic-bert model: those of bert without positions and biases, with one matrix of q, k and v."""
    tensors = random_bert(layers=layers, hidden=hidden, intermediate=inner)
    rng = np.random.default_rng(8)
    for index in range(layers):
        parts = [tensors.pop(f"blk.{index}.attn_{name}.weight") for name in "qkv"]
        tensors[f"blk.{index}.attn_qkv.weight"] = np.concatenate(parts)
        gate = rng.standard_normal((inner, hidden)).astype(np.float32) / 8
        tensors[f"blk.{index}.ffn_gate.weight"] = gate
    return {
        name: array
        for name, array in tensors.items()
        if not name.startswith("position") and (not name.endswith("bias") or "norm" in name)
    }


def nomic_states(tensors: Mapping[str, np.ndarray], ids: torch.Tensor, heads: int = 4, base: float = 1000.0) -> Any:
    """The last states [tokens, hidden] of a nomic-bert model for one text, after its published definition."""
    weights = {name: torch.from_numpy(array) for name, array in tensors.items()}

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return torch.nn.functional.layer_norm(
            x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], 1e-12
        )

    def turned(x: torch.Tensor) -> torch.Tensor:
        half = x.shape[-1] // 2
        angles = torch.outer(torch.arange(x.shape[1]), base ** (-torch.arange(half) / half))
        first, second = x[..., :half], x[..., half:]
        cos, sin = angles.cos(), angles.sin()
        return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)

    x = norm(weights["token_embd.weight"][ids] + weights["token_types.weight"][0], "token_embd_norm")
    for index in range(2):
        layer = f"blk.{index}"
        packed = x @ weights[f"{layer}.attn_qkv.weight"].T
        q, k, v = packed.view(len(ids), 3, heads, -1).permute(1, 2, 0, 3)
        mixed = torch.nn.functional.scaled_dot_product_attention(turned(q)[None], turned(k)[None], v[None])[0]
        mixed = mixed.transpose(0, 1).reshape(len(ids), -1) @ weights[f"{layer}.attn_output.weight"].T
        x = norm(x + mixed, f"{layer}.attn_output_norm")
        gate = torch.nn.functional.silu(x @ weights[f"{layer}.ffn_gate.weight"].T)
        inner = (x @ weights[f"{layer}.ffn_up.weight"].T * gate) @ weights[f"{layer}.ffn_down.weight"].T
        x = norm(x + inner, f"{layer}.layer_output_norm")
    return x
