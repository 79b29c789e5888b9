"""Graphs that others made: a folder exported by optimum, or built for onnxruntime-genai, becomes a bundle.

The graph and its weights stay as they are; the engine follows its contract (appliance/engine/foreign.py). What the
bundle says of it is read from the graph, genai_config.json or config.json, and tokenizer.json. Before anything is
written the graph runs: a few tokens at once and then in two pieces, which must come to the same.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray

from appliance.bundle import CHAT_TEMPLATE, MODEL, TOKENIZER, Bundle, write_description
from appliance.errors import ModelFileError, UnsupportedModel, first_line
from appliance.store.hugging_face import CONFIG, Files, chat_template, onnx_config, read_object
from appliance.store.parts import combined
from converters.gguf_source import BLOB_NAME, path_digest
from converters.partial import whole_or_not
from converters.tokenizers.hugging_face import open_tokenizer

TOKENIZER_CONFIG = "tokenizer_config.json"
GENERATION_CONFIG = "generation_config.json"
PAST = re.compile(r"past_key_values\.(\d+)\.(key|value)")
INTEGER_INPUTS = ("input_ids", "attention_mask", "position_ids")
KV_DTYPES = {ir.DataType.FLOAT: "float32", ir.DataType.FLOAT16: "float16"}
CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length")
HIDDEN_KEYS = ("hidden_size", "n_embd", "d_model", "dim")
TRIAL_TOKENS = 6
CLOSE = 0.05  # of the logits' spread: quantised kernels round one row otherwise than several
AS_IS = "as-is"
DESCRIPTION_BYTES = 1 << 20  # more than bundle.json and a template ever take

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Signature:
    """What a decoder's graph reads and writes, beside the integer inputs and the logits."""

    layers: int
    kv_heads: int
    head_dim: int
    kv_dtype: str
    graph: Literal["past", "shared"]


def is_onnx(files: Files) -> bool:
    """Whether the weights of this folder lie in ONNX graphs."""
    return any(name.endswith(".onnx") for name in files)


def convert_onnx(files: Files, folder: Path, recipe: str = "exact", kv: str = "f32", floor: int = 0) -> Bundle:
    """Make the bundle `folder`, which must not exist, of a folder's files; returns its description.

    Raises ModelFileError for what is missing or damaged, UnsupportedModel for a graph of another contract and for a
    recipe or KV cache type that would change the graph, NotEnoughDisk, ConversionFailed; then nothing stays behind.
    """
    if (recipe, kv) != ("exact", "f32"):
        raise UnsupportedModel(
            f"recipe {recipe} with KV cache {kv} for a graph that is taken as it is", ("exact, f32",)
        )
    found = read_onnx(files)
    size = sum(path.stat().st_size for path in found.contents.values()) + DESCRIPTION_BYTES
    with whole_or_not(folder, size, floor) as partial:
        return fill(partial, files, found, AS_IS)


@dataclass(frozen=True, slots=True)
class OnnxFolder:
    """A checked folder. `contents` are the files of its bundle, by their names in there."""

    contents: Mapping[str, Path]
    signature: Signature
    facts: Mapping[str, Any]  # of the bundle's description


def read_onnx(files: Files) -> OnnxFolder:
    """Read and check everything but the weights. Raises ModelFileError, UnsupportedModel."""
    config = onnx_config(files)
    name = graph_name(files, config)
    model = _load(files[name])
    signature = read_signature(model, config)
    if TOKENIZER not in files:
        raise ModelFileError(f"the folder has no {TOKENIZER}; save its tokenizer there with transformers")
    facts = {
        "architecture": str(config.get("model_type") or "unknown"),
        "parameters": sum(value.const_value.size for value in _weights(model) if value.const_value is not None),
        "hidden_size": _first(config, HIDDEN_KEYS) or 0,
        "context_length": _context_length(config),
        **_special_tokens(files, config),
    }
    contents = {MODEL: files[name], TOKENIZER: files[TOKENIZER], **_external(model, files, name)}
    return OnnxFolder(contents, signature, facts)


def fill(folder: Path, files: Files, found: OnnxFolder, recipe: str) -> Bundle:
    """Write the bundle into the empty `folder`, and run its graph before it is described."""
    for name, path in found.contents.items():
        _place(path, folder / name)
    if template := chat_template(files):
        (folder / CHAT_TEMPLATE).write_text(template, encoding="utf-8")
    signature = found.signature
    bundle = Bundle(
        layers=signature.layers,
        kv_heads=signature.kv_heads,
        head_dim=signature.head_dim,
        kv_dtype=signature.kv_dtype,
        graph=signature.graph,
        vocab_size=trial(folder / MODEL, signature).shape[-1],
        recipe=recipe,
        source_digest=combined({name: path_digest(path.resolve()) for name, path in found.contents.items()}),
        **found.facts,
    )
    write_description(folder, bundle)
    return bundle


def graph_name(files: Files, config: Mapping[str, Any]) -> str:
    """The graph that is the model: the one genai_config.json names, model.onnx, or the only one there is."""
    graphs = [name for name in files if name.endswith(".onnx")]
    for wanted in (config.get("filename"), MODEL, f"onnx/{MODEL}"):
        if wanted in graphs:
            return str(wanted)
    if len(graphs) != 1:
        raise UnsupportedModel(f"a folder with the graphs {', '.join(sorted(graphs))[:200]}", (MODEL, "a single graph"))
    return graphs[0]


def read_signature(model: ir.Model, config: Mapping[str, Any] = {}) -> Signature:
    """The cache of a decoder's graph. Raises UnsupportedModel for inputs and outputs that are not known."""
    known = (*INTEGER_INPUTS, "past_key_values.N.key", "past_key_values.N.value")
    past: dict[str, ir.Value] = {}
    for value in model.graph.inputs:
        if PAST.fullmatch(str(value.name)):
            past[str(value.name)] = value
        elif value.name not in INTEGER_INPUTS:
            raise UnsupportedModel(f"the graph's input {str(value.name)[:80]}", known)
    layers = len(past) // 2
    wanted = {f"past_key_values.{layer}.{kind}" for layer in range(layers) for kind in ("key", "value")}
    if not past or past.keys() != wanted:
        raise UnsupportedModel("a decoder's graph without a cache, or with half of one", known)
    outputs = {str(value.name) for value in model.graph.outputs}
    for name in ("logits", *(name.replace("past_key_values", "present", 1) for name in past)):
        if name not in outputs:
            raise UnsupportedModel(f"a graph without the output {name}", ("logits", "present.N.key", "present.N.value"))
    shapes = {_cache_shape(value, config) for value in past.values()}
    dtypes = {value.dtype for value in past.values()}
    if len(shapes) > 1 or len(dtypes) > 1 or not dtypes <= KV_DTYPES.keys():
        raise UnsupportedModel(
            f"a cache of the shapes {sorted(shapes)} and types {sorted(map(str, dtypes))}",
            ("one shape [batch, heads, length, size] in float32 or float16 for all layers",),
        )
    ((heads, size),) = shapes
    shared = all(_only_attention_reads(value) for value in past.values())
    return Signature(
        layers, heads, size, KV_DTYPES[next(iter(dtypes)) or ir.DataType.FLOAT], "shared" if shared else "past"
    )


def _cache_shape(value: ir.Value, config: Mapping[str, Any]) -> tuple[int, int]:
    """Heads and their size; onnxruntime-genai writes the size into its configuration alone."""
    dims = list(value.shape) if value.shape is not None else []
    if len(dims) != 4:
        raise UnsupportedModel(f"the cache {value.name} of rank {len(dims)}", ("[batch, heads, length, size]",))
    heads = dims[1] if isinstance(dims[1], int) else config.get("num_key_value_heads")
    size = dims[3] if isinstance(dims[3], int) else config.get("head_dim")
    if not isinstance(heads, int) or not isinstance(size, int):
        raise UnsupportedModel(f"the cache {value.name} of shape {dims}", ("known heads and head sizes",))
    return heads, size


def _only_attention_reads(value: ir.Value) -> bool:
    """Whether the cache goes into GroupQueryAttention and nowhere else: then it may be written in place."""
    users = [node.op_type for node, _ in value.uses()]
    return bool(users) and set(users) == {"GroupQueryAttention"}


def _load(path: Path) -> ir.Model:
    try:
        return ir.load(path)
    except Exception as error:  # protobuf's and onnx_ir's exceptions share no base below Exception
        raise ModelFileError(f"{path.name} is no ONNX model: {type(error).__name__}") from error


def _weights(model: ir.Model) -> list[ir.Value]:
    return list(model.graph.initializers.values())


def _external(model: ir.Model, files: Files, graph: str) -> dict[str, Path]:
    """The files that hold the graph's weights, by the names that it knows them under."""
    found: dict[str, Path] = {}
    for value in _weights(model):
        if isinstance(value.const_value, ir.ExternalTensor):
            location = str(value.const_value.location)
            name = (PurePosixPath(graph).parent / location).as_posix()
            if PurePosixPath(location).name != location or location in (MODEL, TOKENIZER):
                raise UnsupportedModel(f"weights in {location[:80]!r}", ("files beside the graph",))
            if name not in files:
                raise ModelFileError(f"{location[:80]}, which holds weights of {graph}, is missing")
            found[location] = files[name]
    return found


def _place(source: Path, target: Path) -> None:
    """A blob of a store never changes, so its bytes may be shared; of any other file, a copy."""
    blob = source.resolve()
    if BLOB_NAME.fullmatch(blob.name):
        with contextlib.suppress(OSError):  # another disk, or one without links
            os.link(blob, target)
            return
    shutil.copyfile(source, target)


def trial(graph: Path, signature: Signature) -> Floats:
    """Run the graph on a few tokens at once and in two pieces; returns its logits [1,S,V].

    Raises ModelFileError when ONNX Runtime cannot run it or when the pieces come to something else.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 3
    try:
        session = ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions share no base below Exception
        raise ModelFileError(f"ONNX Runtime cannot load the graph: {first_line(error, graph.parent)}") from error
    ids = np.arange(1, 1 + TRIAL_TOKENS)
    empty = np.zeros((1, signature.kv_heads, 0, signature.head_dim), signature.kv_dtype)
    start = {value.name: empty for value in session.get_inputs() if PAST.fullmatch(value.name)}
    whole, _ = _run(session, ids, 0, start)
    _, past = _run(session, ids[:-2], 0, start)
    rest, _ = _run(session, ids[-2:], TRIAL_TOKENS - 2, past)
    if whole.shape[:2] != (1, TRIAL_TOKENS):
        raise UnsupportedModel(
            f"logits of shape {list(whole.shape)} for {TRIAL_TOKENS} tokens", ("logits of every token",)
        )
    if np.abs(whole[:, -2:] - rest).max() > CLOSE * whole.std():
        raise ModelFileError("the graph does not continue from its own cache: its logits are not those of a whole run")
    return whole


def _run(
    session: Any, ids: NDArray[np.int64], past: int, cache: Mapping[str, NDArray[Any]]
) -> tuple[Floats, dict[str, NDArray[Any]]]:
    """Logits and the cache after `ids`, of which `past` others are in `cache`."""
    total = past + len(ids)
    values = {
        "input_ids": ids[None],
        "attention_mask": np.ones((1, total), np.int64),
        "position_ids": np.arange(past, total)[None],
    }
    types = {value.name: np.int32 if value.type == "tensor(int32)" else np.int64 for value in session.get_inputs()}
    feeds = {name: array.astype(types[name]) for name, array in values.items() if name in types}
    names = [name.replace("past_key_values", "present", 1) for name in cache]
    try:
        logits, *present = session.run(["logits", *names], {**feeds, **cache})
    except Exception as error:  # ONNX Runtime's exceptions share no base below Exception
        raise ModelFileError(f"the graph does not run: {first_line(error)}") from error
    return logits.astype(np.float32), dict(zip(cache, present, strict=True))


def _context_length(config: Mapping[str, Any]) -> int:
    length = _first(config, CONTEXT_KEYS)
    if not length:
        raise ModelFileError(f"the context length is not known; {CONFIG} must say it: {', '.join(CONTEXT_KEYS)}")
    return length


def _special_tokens(files: Files, config: Mapping[str, Any]) -> dict[str, Any]:
    """bos_token, eos_tokens and add_bos of the bundle; what a generation config says comes first."""
    generation = read_object(files, GENERATION_CONFIG) if GENERATION_CONFIG in files else {}
    tokenizer = open_tokenizer(files)
    spelled = read_object(files, TOKENIZER_CONFIG) if TOKENIZER_CONFIG in files else {}
    said: dict[str, list[int]] = {}
    for key in ("bos_token_id", "eos_token_id"):
        found: Any = next((each[key] for each in (generation, config) if each.get(key) is not None), [])
        said[key] = [found] if isinstance(found, int) else [token for token in found if isinstance(token, int)]
        token = spelled.get(key.removesuffix("_id"))
        text = token.get("content") if isinstance(token, dict) else token
        own = tokenizer.token_to_id(text) if isinstance(text, str) else None
        if own is not None and own not in said[key]:
            said[key].insert(0, own)
    bos = next(iter(said["bos_token_id"]), None)
    added = tokenizer.encode("", add_special_tokens=True).ids
    return {
        "bos_token": bos,
        "eos_tokens": tuple(token for token in said["eos_token_id"] if token < tokenizer.get_vocab_size()),
        "add_bos": bos is not None and added[:1] == [bos],
    }


def _first(table: Mapping[str, Any], keys: tuple[str, ...]) -> int | None:
    values = (table.get(key) for key in keys)
    return next((value for value in values if type(value) is int and value > 0), None)
