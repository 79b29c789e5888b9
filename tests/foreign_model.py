"""Tiny models behind the contracts of others: a GPT-2 of transformers, and a llama as onnxruntime-genai builds it."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from appliance.bundle import CHAT_TEMPLATE, MODEL, TOKENIZER, WEIGHTS
from tests.tiny_model import CHAT_TEMPLATE as TEMPLATE
from tests.tiny_model import CONTROL, MERGES, tiny_tokens, write_tiny_bundle


def write_gpt2(folder: Path, **config: Any) -> Any:
    """A Hugging Face folder of a random GPT-2, an architecture that is not built natively; returns the model."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(5)
    end = len(tiny_tokens()) - 1
    sizes = {"n_positions": 128, "n_embd": 64, "n_layer": 2, "n_head": 4} | config
    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=len(tiny_tokens()), bos_token_id=end, eos_token_id=end, initializer_range=0.2, **sizes)
    ).eval()
    model.save_pretrained(folder)
    write_tokenizer(folder)
    return model


def write_tokenizer(folder: Path) -> None:
    """The tiny vocabulary, as transformers would save it."""
    vocabulary = {token: place for place, token in enumerate(tiny_tokens())}
    tokenizer = Tokenizer(models.BPE(vocabulary, [tuple(merge.split()) for merge in MERGES]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in CONTROL])
    tokenizer.save(str(folder / TOKENIZER))
    names = {"bos_token": CONTROL[0], "eos_token": CONTROL[2], "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))


def write_exported(folder: Path, **config: Any) -> Any:
    """A folder as optimum exports it, of a random GPT-2; returns the model of transformers."""
    from optimum.exporters.onnx import main_export

    source = folder.with_name(f"{folder.name}.hf")
    model = write_gpt2(source, **config)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's and transformers' own
        main_export(str(source), folder, task="text-generation-with-past", do_validation=False, local_files_only=True)
    write_tokenizer(folder)
    shutil.rmtree(source)
    return model


def write_genai_folder(folder: Path, reference: Path) -> None:
    """A folder as onnxruntime-genai's builder makes it, with the weights of the tiny llama bundle `reference`.

    Where the builder computes what attention needs from attention_mask, so does this graph.
    """
    write_tiny_bundle(reference, "fp32")
    model = ir.load(reference / MODEL)
    mask = ir.Value(name="attention_mask", shape=ir.Shape(("B", "T")), type=ir.TensorType(ir.DataType.INT64))
    lengths = _lengths(model.graph, mask)
    inputs = {str(value.name): value for value in model.graph.inputs}
    for node in list(model.graph):
        if node.op_type == "GroupQueryAttention":
            for place, value in zip((5, 6), lengths, strict=True):
                node.replace_input_with(place, value)
            node.resize_inputs(9)
        elif node.op_type == "GatherND":  # logits of every token
            ir.convenience.replace_all_uses_with(node.outputs[0], node.inputs[0])
            model.graph.remove(node, safe=True)
    (unsqueeze,) = (node for node, _ in inputs["logit_rows"].uses())
    model.graph.remove(unsqueeze, safe=True)
    for name in ("seqlens_k", "total_sequence_length", "query_seqlens", "logit_rows"):
        model.graph.inputs.remove(inputs[name])
    model.graph.inputs.append(mask)
    for value in (*model.graph.inputs, *model.graph.outputs):
        kind, _, layer = str(value.name).partition(".")
        if layer:
            when, what = kind.split("_")
            value.name = f"{'past_key_values' if when == 'past' else 'present'}.{layer}.{what}"
    folder.mkdir(parents=True)
    ir.save(model, folder / MODEL, external_data=WEIGHTS)
    for name in (TOKENIZER, CHAT_TEMPLATE):
        shutil.copy(reference / name, folder)
    _write_genai_config(folder)


def _lengths(graph: ir.Graph, mask: ir.Value) -> tuple[ir.Value, ir.Value]:
    """seqlens_k [B] and total_sequence_length, computed from the mask in front of everything else."""

    def constant(name: str, value: Any) -> ir.Value:
        made = ir.Value(name=name, const_value=ir.tensor(np.array(value, np.int64), name=name))
        graph.register_initializer(made)
        return made

    one, axis = constant("one", 1), constant("axis", [1])
    tokens = ir.node("ReduceSum", [mask, axis], {"keepdims": 0})
    last = ir.node("Sub", [tokens.outputs[0], one])
    seqlens = ir.node("Cast", [last.outputs[0]], {"to": ir.DataType.INT32})
    shape = ir.node("Shape", [mask])
    length = ir.node("Gather", [shape.outputs[0], one], {"axis": 0})
    total = ir.node("Cast", [length.outputs[0]], {"to": ir.DataType.INT32})
    first = graph[0]
    for place, node in enumerate((tokens, last, seqlens, shape, length, total)):
        node.outputs[0].name = f"mask.{place}"
        graph.insert_before(first, node)
    return seqlens.outputs[0], total.outputs[0]


def _write_genai_config(folder: Path) -> None:
    bundle = {"head_size": 16, "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2}
    model = {
        "type": "llama",
        "context_length": 512,
        "bos_token_id": len(tiny_tokens()) - 3,
        "eos_token_id": [len(tiny_tokens()) - 1],
        "vocab_size": len(tiny_tokens()),
        "decoder": {"filename": MODEL, "num_key_value_heads": 2, **bundle},
    }
    search = {"max_length": 512, "past_present_share_buffer": True}
    (folder / "genai_config.json").write_text(json.dumps({"model": model, "search": search}))
