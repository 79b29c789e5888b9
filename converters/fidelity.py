"""How well a bundle predicts a short text, and how often its first choice is that of its source.

The text is calibration.txt: English prose in the public domain (Brontë, Dickens, Melville, Thoreau, Darwin, Conan
Doyle), and some conversation, markup, code, JSON, German, French, Spanish and Chinese. A bundle's own tokenizer reads
it.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray
from onnx_ir import serde
from tokenizers import Tokenizer

from appliance.bundle import MODEL, TOKENIZER, read_description

TEXT = Path(__file__).with_name("calibration.txt")
WINDOW_TOKENS = 256
MOST_WINDOWS = 4
STEP_TOKENS = 64  # whose logits are in memory at once
CACHE_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int8)": np.int8}

Scores = tuple[NDArray[np.float64], NDArray[np.int64]]


def scores(graph: Path) -> Scores | None:
    """NLL (nats) and first choice for each predicted token of the text, some thousand of them.

    `graph` lies in the folder of its bundle. None if the tokenizer makes less than two tokens of the text.
    """
    windows = _windows(graph.parent)
    if not windows:
        return None
    decoder = _Graph(graph, max(map(len, windows)))
    losses, choices = [], []
    for window in windows:
        cache = decoder.empty_cache()
        for at in range(0, len(window) - 1, STEP_TOKENS):
            # The last token of the window has nothing to predict.
            ids = window[at : min(at + STEP_TOKENS, len(window) - 1)]
            logits = decoder.run(ids, at, cache).astype(np.float64)
            logits -= logits.max(axis=-1, keepdims=True)
            following = np.array(window[at + 1 : at + 1 + len(ids)])
            losses.append(np.log(np.exp(logits).sum(axis=-1)) - logits[np.arange(len(ids)), following])
            choices.append(logits.argmax(axis=-1))
    return np.concatenate(losses), np.concatenate(choices)


def compared(own: Scores | None, source: Scores | None) -> dict[str, float]:
    """A bundle's scores for its description: `tokens` (predicted ones), `nll` (nats a token).

    Beside those of its source also `source_nll`, and `top1`, the share of tokens where both have the same first
    choice. {} without scores.
    """
    if own is None:
        return {}
    nll, choices = own
    result = {"tokens": len(nll), "nll": round(float(nll.mean()), 4)}
    if source is not None:
        result["source_nll"] = round(float(source[0].mean()), 4)
        result["top1"] = round(float((choices == source[1]).mean()), 4)
    return result


def calibration_tokens(folder: Path) -> list[int]:
    """The text in the tokens of the bundle `folder`, whose tokenizer at least is written; no control tokens."""
    tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
    ids: list[int] = tokenizer.encode(TEXT.read_text(encoding="utf-8"), add_special_tokens=False).ids
    return ids


def importance(folder: Path) -> dict[str, NDArray[np.float32]]:
    """The mean square [K] of each input of every matrix of the bundle `folder` on the text, by the tensor's name.

    {} if the tokenizer makes less than two tokens of the text.
    """
    windows = _windows(folder, most=None)
    if not windows:
        return {}
    model, readers = _with_inputs_as_outputs(folder / MODEL)
    graph = _Graph(model, max(map(len, windows)), folder)
    sums: dict[str, NDArray[np.float64]] = defaultdict(lambda: np.zeros(1))
    for window in windows:
        cache = graph.empty_cache()
        for at in range(0, len(window), STEP_TOKENS):
            for name, x in graph.values(window[at : at + STEP_TOKENS], at, cache, list(readers)).items():
                sums[name] = sums[name] + np.square(x, dtype=np.float64).reshape(-1, x.shape[-1]).sum(axis=0)
    tokens = sum(map(len, windows))
    return {tensor: (sums[name] / tokens).astype(np.float32) for name, tensors in readers.items() for tensor in tensors}


def _with_inputs_as_outputs(path: Path) -> tuple[bytes, dict[str, list[str]]]:
    """The graph in this file with the input of every matrix of a layer as an output: who reads which, by name."""
    model = ir.load(path)
    readers: dict[str, list[str]] = defaultdict(list)
    for node in model.graph:
        if node.op_type not in ("MatMulNBits", "FusedMatMul"):
            continue
        x, matrix = node.inputs[0], node.inputs[1]
        assert x is not None
        assert matrix is not None
        source = x.producer()
        if source is not None and source.op_type == "Concat":  # the averages of blocks stand behind
            x = source.inputs[0]
            assert x is not None
        if x.name not in readers:
            x.type = ir.TensorType(ir.DataType.FLOAT)
            model.graph.outputs.append(x)
        readers[str(x.name)].extend(str(matrix.name).split("+"))
    return serde.serialize_model(model).SerializeToString(), readers


def _windows(folder: Path, most: int | None = MOST_WINDOWS) -> list[list[int]]:
    """At most `most` pieces, spread over the text, each of at least two tokens; without a limit, the whole text."""
    bundle = read_description(folder)
    start = [bundle.bos_token] if bundle.add_bos and bundle.bos_token is not None else []
    length = min(WINDOW_TOKENS, bundle.context_length)
    text = calibration_tokens(folder)
    own = length - len(start)
    count = -(-len(text) // max(own, 1)) if most is None else min(most, max(1, len(text) // max(own, 1)))
    places = np.linspace(0, max(len(text) - own, 0), count).astype(int)
    windows = [[*start, *text[place : place + own]] for place in places]
    return [window for window in windows if len(window) > 1]


class _Graph:
    """A graph of a bundle, run on one sequence."""

    def __init__(self, model: Path | bytes, capacity: int, weights: Path | None = None) -> None:
        """`weights` is the folder of the weights file of a model that is no file."""
        options = ort.SessionOptions()
        options.log_severity_level = 3
        if weights:
            options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(weights))
        self.session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self.inputs = {value.name: value for value in self.session.get_inputs()}
        self.capacity = capacity

    def empty_cache(self) -> dict[str, ort.OrtValue]:
        """Keys and values of every layer, by the names of the inputs."""
        cache = {}
        for name, value in self.inputs.items():
            if name.startswith("past_"):
                _, heads, _, size = value.shape
                array = np.zeros((1, heads, self.capacity, size), CACHE_TYPES[value.type])
                cache[name] = ort.OrtValue.ortvalue_from_numpy(array)
        return cache

    def run(self, ids: list[int], past: int, cache: dict[str, ort.OrtValue]) -> NDArray[np.float32]:
        """Run `ids` after the `past` tokens in the cache, which grows; their logits."""
        logits: NDArray[np.float32] = self.values(ids, past, cache, ["logits"])["logits"][0]
        return logits

    def values(
        self, ids: list[int], past: int, cache: dict[str, ort.OrtValue], names: list[str]
    ) -> dict[str, NDArray[np.float32]]:
        """The outputs `names` of such a run."""
        feeds = {
            "input_ids": np.array([ids], np.int64),
            "seqlens_k": np.array([past + len(ids) - 1], np.int32),
            "total_sequence_length": np.array(self.capacity, np.int32),
            "query_seqlens": np.array([len(ids)], np.int32),
            "logit_rows": np.arange(len(ids))[None],
        }
        binding = self.session.io_binding()
        for name, array in feeds.items():
            binding.bind_cpu_input(name, array)
        for name, value in cache.items():
            binding.bind_ortvalue_input(name, value)
            binding.bind_ortvalue_output(name.replace("past_", "present_", 1), value)
        for name in names:
            binding.bind_output(name)
        self.session.run_with_iobinding(binding)
        arrays = binding.get_outputs()[-len(names) :]
        return {name: array.numpy() for name, array in zip(names, arrays, strict=True)}
