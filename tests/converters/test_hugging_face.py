"""Configurations in GGUF's words: every key is read, without effect, or refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from appliance.errors import ModelFileError, UnsupportedModel
from appliance.store.hugging_face import ARCHITECTURES, read_folder
from appliance.store.safetensors_header import StoredTensor
from converters.hugging_face import FAMILIES, describe
from converters.hugging_face.fields import Description
from converters.hugging_face.tensors import View, views
from tests.converters.oracle import CASES
from tests.tiny_folder import tiny_config, write_tiny_folder

ENCODER = {
    "architectures": ["BertModel"],
    "model_type": "bert",
    "vocab_size": 100,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 40,
    "type_vocab_size": 2,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "position_embedding_type": "absolute",
    "pad_token_id": 0,
}
MODERN = {
    "architectures": ["ModernBertForSequenceClassification"],
    "model_type": "modernbert",
    "vocab_size": 100,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "max_position_embeddings": 8192,
    "global_attn_every_n_layers": 3,
    "local_attention": 128,
    "global_rope_theta": 160000.0,
    "local_rope_theta": 10000.0,
    "norm_eps": 1e-5,
    "hidden_activation": "gelu",
    "classifier_activation": "gelu",
    "classifier_pooling": "mean",
    "decoder_bias": True,
    "sparse_prediction": False,
}
NOMIC = {
    "architectures": ["NomicBertModel"], "model_type": "nomic_bert", "activation_function": "swiglu", "n_embd": 32,
    "n_head": 2, "n_inner": 64, "n_layer": 2, "n_positions": 8192, "max_trained_positions": 2048, "vocab_size": 100,
    "layer_norm_epsilon": 1e-12, "rotary_emb_base": 1000, "rotary_emb_fraction": 1.0, "rotary_scaling_factor": None,
    "rotary_emb_interleaved": False, "prenorm": False, "qkv_proj_bias": False, "mlp_fc1_bias": False,
    "mlp_fc2_bias": False, "use_rms_norm": False, "causal": False, "type_vocab_size": 2, "use_flash_attn": True,
    "scale_attn_weights": True, "parallel_block": False,
}  # fmt: skip


def described(folder: Path, config: dict[str, Any]) -> Description:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    return describe({"config.json": folder / "config.json"})


def named(description: Description, *shapes: tuple[str, tuple[int, ...]], dtype: str = "F32") -> dict[str, View]:
    """The views of tensors with these names and shapes, which lie one after the other in a file."""
    tensors, end = [], 0
    for name, shape in shapes:
        size = int(np.prod(shape)) * (4 if dtype == "F32" else 2)
        tensors.append(StoredTensor(name, dtype, shape, end, size))
        end += size
    return views({Path("file"): tensors}, description)


def test_the_store_knows_the_same_families() -> None:
    assert ARCHITECTURES.keys() == FAMILIES.keys()


@pytest.mark.parametrize("name", CASES)
def test_the_store_tells_what_the_converters_read(tmp_path: Path, name: str) -> None:
    case = CASES[name]
    config = {"architectures": ["X"], **case.full_config, "model_type": case.model_type}
    folder = write_tiny_folder(tmp_path / "hf")
    (folder / "config.json").write_text(json.dumps(config))
    files = {path.name: path for path in folder.iterdir()}
    read, told = describe(files), read_folder(files)
    assert read.architecture == case.architecture
    told.metadata.pop("general.file_type")
    if "head_dim" not in config:
        assert read.metadata[f"{case.architecture}.attention.key_length"] in (16, 32, 128, 256)
    assert told.metadata.items() <= {**read.metadata, "general.type": "model"}.items()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "mamba"}, "model_type 'mamba' is not supported; supported: llama, mistral,"),
        ({"model_type": None}, "model_type 'None' is not supported"),
        ({"new_trick": 1}, "config.json: new_trick = 1 is not supported; supported: head_dim, hidden_act,"),
        ({"quantization_config": {"quant_method": "fp8"}}, "config.json: quantization_config = "),
        ({"hidden_act": "gelu"}, "config.json: hidden_act = gelu is not supported; supported: silu"),
        ({"is_decoder": True}, "config.json: is_decoder = True"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope_scaling: type = dynamic is not supported"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0, "mscale": 1}}, "rope_scaling: mscale = 1"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0, "mscale": 1}}, "rope_scaling: mscale = 1"),
        ({"model_type": "qwen3_moe", "num_experts": 4}, "norm_topk_prob = False is not supported"),
        ({"model_type": "qwen3_moe", "mlp_only_layers": [1]}, r"mlp_only_layers = \[1\]"),
        ({"model_type": "smollm3", "no_rope_layers": [1, 0]}, r"no_rope_layers = \[1, 0\]"),
        ({"model_type": "qwen2", "layer_types": ["chunked_attention"] * 2}, "layer_types = "),
        ({"model_type": "gemma3_text", "use_bidirectional_attention": True, "hidden_act": None},
         "use_bidirectional_attention = True"),
        ({"model_type": "gemma2", "hidden_activation": "gelu"}, "hidden_activation = gelu is not supported"),
    ],
)  # fmt: skip
def test_what_would_change_the_computation_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedModel, match=message):
        described(tmp_path, {key: value for key, value in {**tiny_config(), **change}.items() if value is not None})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": None}, "config.json has no hidden_size"),
        ({"hidden_size": "64"}, "config.json is damaged: hidden_size is 64"),
        ({"num_attention_heads": -1}, "config.json is damaged: num_attention_heads is -1"),
        ({"rms_norm_eps": True}, "config.json is damaged: rms_norm_eps is True"),
        ({"rope_theta": float("nan")}, "config.json is damaged: rope_theta is nan"),
        ({"tie_word_embeddings": 1}, "config.json is damaged: tie_word_embeddings is 1"),
        ({"rope_scaling": [1]}, "config.json is damaged: rope_scaling is"),
        ({"rope_scaling": {"rope_type": "linear"}}, "config.json: rope_scaling has no factor"),
    ],
)
def test_damaged_configurations(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelFileError, match=message):
        described(tmp_path, {**tiny_config(), **change})


def test_later_versions_keep_the_rope_in_one_object(tmp_path: Path) -> None:
    scaling = {"rope_type": "linear", "factor": 4.0}
    old = described(tmp_path, {**tiny_config(), "rope_theta": 5e5, "rope_scaling": scaling})
    config = {**tiny_config(), "rope_parameters": {"rope_theta": 5e5, **scaling}}
    del config["rope_theta"]
    assert described(tmp_path, config).metadata == old.metadata
    assert old.metadata["llama.rope.scaling.factor"] == 4.0


def test_what_published_files_say_besides(tmp_path: Path) -> None:
    """Of SmolLM2's config.json: keys that have no effect, and one that has only one value without."""
    besides = {"is_llama_config": True, "rope_interleaved": False, "transformers.js_config": {"dtype": "q4"},
               "pretraining_tp": 1, "rope_scaling": None}  # fmt: skip
    plain = described(tmp_path, tiny_config())
    assert described(tmp_path, {**tiny_config(), **besides}).metadata == plain.metadata
    with pytest.raises(UnsupportedModel, match="rope_interleaved = True is not supported; supported: False"):
        described(tmp_path, {**tiny_config(), "rope_interleaved": True})


def test_gemma_3_within_a_multimodal_configuration(tmp_path: Path) -> None:
    text = {"model_type": "gemma3_text", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 6,
            "sliding_window": 16, "rope_scaling": {"rope_type": "linear", "factor": 8.0}}  # fmt: skip
    config = {"model_type": "gemma3", "text_config": text, "vision_config": {"x": 1}, "mm_tokens_per_image": 256}
    description = described(tmp_path, config)
    told = {key.removeprefix("gemma3."): value for key, value in description.metadata.items()}
    assert (told["attention.key_length"], told["attention.head_count"], told["rope.freq_base"]) == (256, 8, 1e6)
    assert "attention.sliding_window_pattern" not in told
    found = named(
        description,
        ("language_model.model.embed_tokens.weight", (8, 4)),
        ("language_model.model.layers.0.mlp.up_proj.weight", (8, 4)),
        ("model.language_model.layers.1.input_layernorm.weight", (4,)),
        ("vision_tower.vision_model.post_layernorm.weight", (4,)),
        ("model.multi_modal_projector.mm_soft_emb_norm.weight", (4,)),
        *((f"model.layers.{index}.self_attn.q_norm.weight", (4,)) for index in range(2, 6)),
    )
    assert sorted(found)[:1] == ["blk.0.ffn_up.weight"]
    assert found["blk.1.attn_norm.weight"].plus == 1.0
    assert len(found) == 7
    text["layer_types"] = ["full_attention", *["sliding_attention"] * 5]
    pattern = described(tmp_path, config).metadata["gemma3.attention.sliding_window_pattern"]
    assert pattern == [False, *[True] * 5]


def test_bert(tmp_path: Path) -> None:
    description = described(tmp_path, ENCODER)
    assert description.metadata == {
        "general.architecture": "bert",
        "general.type": "model",
        "bert.vocab_size": 100,
        "bert.block_count": 2,
        "bert.context_length": 40,
        "bert.embedding_length": 32,
        "bert.feed_forward_length": 64,
        "bert.attention.head_count": 2,
        "bert.attention.layer_norm_epsilon": 1e-12,
        "bert.attention.causal": False,
    }
    shapes = [
        ("bert.embeddings.word_embeddings.weight", (100, 32)),
        ("bert.encoder.layer.1.attention.self.query.bias", (32,)),
        ("bert.pooler.dense.weight", (32, 32)),
        ("cls.predictions.bias", (100,)),
    ]
    assert set(named(description, *shapes)) == {"token_embd.weight", "blk.1.attn_q.bias"}
    ranks = described(tmp_path, {**ENCODER, "architectures": ["BertForSequenceClassification"]})
    assert ranks.metadata["bert.pooling_type"] == 4
    assert set(named(ranks, *shapes, ("classifier.weight", (1, 32)))) == {
        "token_embd.weight", "blk.1.attn_q.bias", "cls.weight", "cls.output.weight",
    }  # fmt: skip


def test_positions_of_xlm_roberta_begin_behind_padding(tmp_path: Path) -> None:
    config = {**ENCODER, "model_type": "xlm-roberta", "pad_token_id": 1, "max_position_embeddings": 42}
    description = described(tmp_path, {**config, "architectures": ["XLMRobertaForSequenceClassification"]})
    assert description.metadata["bert.context_length"] == 40
    found = named(
        description,
        ("roberta.embeddings.position_embeddings.weight", (42, 32)),
        ("classifier.dense.weight", (32, 32)),
        ("classifier.out_proj.bias", (1,)),
    )
    positions = found.pop("position_embd.weight")
    assert (positions.shape, positions.runs[0].offset, positions.runs[0].size) == ((40, 32), 2 * 32 * 4, 40 * 32 * 4)
    assert found.keys() == {"cls.weight", "cls.output.bias"}


def test_nomic_bert(tmp_path: Path) -> None:
    description = described(tmp_path, NOMIC)
    assert description.metadata["nomic-bert.context_length"] == 2048
    found = named(
        description,
        ("encoder.layers.0.attn.Wqkv.weight", (96, 32)),
        ("encoder.layers.0.mlp.fc11.weight", (64, 32)),
        ("encoder.layers.1.mlp.fc12.weight", (64, 32)),
    )
    assert set(found) == {"blk.0.attn_qkv.weight", "blk.0.ffn_up.weight", "blk.1.ffn_gate.weight"}
    for key, value in (("prenorm", True), ("rotary_scaling_factor", 2), ("rotary_emb_fraction", 0.5)):
        with pytest.raises(UnsupportedModel, match=f"config.json: {key} = {value}"):
            described(tmp_path, {**NOMIC, key: value})


def test_modern_bert(tmp_path: Path) -> None:
    description = described(tmp_path, MODERN)
    told = {key.removeprefix("modern-bert."): value for key, value in description.metadata.items()}
    assert (told["attention.sliding_window"], told["attention.sliding_window_pattern"]) == (128, 3)
    assert (told["rope.freq_base"], told["rope.freq_base_swa"]) == (160000.0, 10000.0)
    assert (told["pooling_type"], told["classifier.pooling"]) == (4, "mean")
    found = named(
        description,
        ("model.embeddings.tok_embeddings.weight", (100, 32)),
        ("model.layers.1.attn_norm.weight", (32,)),
        ("model.layers.0.mlp.Wi.weight", (96, 32)),
        ("head.dense.weight", (32, 32)),
        ("head.norm.weight", (32,)),
        ("classifier.weight", (1, 32)),
    )
    assert set(found) == {
        "token_embd.weight", "blk.1.attn_norm.weight", "blk.0.ffn_up.weight", "cls.weight", "cls.norm.weight",
        "cls.output.weight",
    }  # fmt: skip


def test_tensors_without_a_place_are_refused_by_name(tmp_path: Path) -> None:
    description = described(tmp_path, tiny_config(layers=1))
    with pytest.raises(UnsupportedModel, match=r"tensor model\.layers\.0\.secret\.weight in a llama model"):
        named(description, ("model.layers.0.secret.weight", (4, 4)))
    with pytest.raises(UnsupportedModel, match=r"dtype F8_E4M3 of tensor model\.layers\.0\.mlp\.up_proj\.weight"):
        named(description, ("model.layers.0.mlp.up_proj.weight", (4, 4)), dtype="F8_E4M3")
    with pytest.raises(ModelFileError, match="given twice"):
        named(description, ("model.norm.weight", (4,)), ("norm.weight", (4,)))
    with pytest.raises(ModelFileError, match="9 layers, but only 1 tensors"):
        named(described(tmp_path, tiny_config(layers=9)), ("model.norm.weight", (4,)))
    assert named(description, ("model.layers.0.self_attn.rotary_emb.inv_freq", (8,)), ("norm.weight", (4,))).keys() == {
        "output_norm.weight"
    }


def test_a_tied_head_is_the_embedding_even_if_a_copy_is_there(tmp_path: Path) -> None:
    shapes = ("model.embed_tokens.weight", (8, 4)), ("lm_head.weight", (8, 4))
    tied = described(tmp_path, {**tiny_config(layers=1), "tie_word_embeddings": True})
    assert set(named(tied, *shapes)) == {"token_embd.weight"}
    assert set(named(described(tmp_path, tiny_config(layers=1)), *shapes)) == {"token_embd.weight", "output.weight"}


def test_experts_that_are_apart_are_stacked(tmp_path: Path) -> None:
    config = {**CASES["qwen3moe"].full_config, "model_type": "qwen3_moe", "num_hidden_layers": 1}
    description = described(tmp_path, config)
    shapes = [(f"model.layers.0.mlp.experts.{index}.up_proj.weight", (3, 4)) for index in (1, 0, 2)]
    view = named(description, *shapes)["blk.0.ffn_up_exps.weight"]
    assert view.shape == (3, 3, 4)
    assert [run.offset for run in view.runs] == [48, 0, 96]
    with pytest.raises(ModelFileError, match=r"of the 2 experts of .* some are missing"):
        named(description, *shapes[::2])
    with pytest.raises(ModelFileError, match="differ in shape or dtype"):
        named(description, *shapes[:2], ("model.layers.0.mlp.experts.2.up_proj.weight", (4, 4)))


def test_matrices_that_are_one_are_taken_apart(tmp_path: Path) -> None:
    config = {**CASES["granitemoe"].full_config, "model_type": "granitemoe", "num_hidden_layers": 1}
    found = named(described(tmp_path, config), ("model.layers.0.block_sparse_moe.input_linear.weight", (2, 6, 4)))
    gate, up = found["blk.0.ffn_gate_exps.weight"], found["blk.0.ffn_up_exps.weight"]
    assert gate.shape == up.shape == (2, 3, 4)
    assert [run.offset for run in gate.runs] == [0, 96]
    assert [run.offset for run in up.runs] == [48, 144]
