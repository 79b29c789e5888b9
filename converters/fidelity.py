"""How well a bundle predicts a short text, and how often its first choice is that of its source.

The text is calibration.txt: English prose in the public domain (Brontë, Dickens, Melville, Thoreau, Darwin, Conan
Doyle), and some conversation, markup, code, JSON, German, French, Spanish and Chinese. A bundle's own tokenizer reads
it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray
from onnx_ir import serde
from tokenizers import Tokenizer

from appliance.bundle import MODEL, TOKENIZER, read_description
from appliance.processor import product_settings

TEXT = Path(__file__).with_name("calibration.txt")
WINDOW_TOKENS = 256
MOST_WINDOWS = 4
STEP_TOKENS = 64  # whose logits are in memory at once
CACHE_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int8)": np.int8}

Floats = NDArray[np.float32]


def compare(graph: Path, source: Path | None, beat: Callable[[], None] = lambda: None) -> dict[str, float]:
    """Run a graph over some thousand tokens of the text, beside that of its source: figures for the description.

    `tokens` are predicted ones, `nll` is in nats a token; beside a source also `source_nll`, `top1`, the share of
    tokens where both have the same first choice, and `kl`, the divergence of the graph's choice from the source's in
    nats. Both graphs lie in folders of bundles; the first one's tokenizer reads the text. {} if it makes less than two
    tokens of it. `beat` is called every STEP_TOKENS.
    """
    windows = _windows(graph.parent)
    if not windows:
        return {}
    capacity = max(map(len, windows))
    own, other = _Graph(graph, capacity), _Graph(source, capacity) if source else None
    sums: dict[str, float] = defaultdict(float)
    for window in windows:
        cache, other_cache = own.empty_cache(), other.empty_cache() if other else {}
        for at in range(0, len(window) - 1, STEP_TOKENS):
            # The last token of the window has nothing to predict.
            ids = window[at : min(at + STEP_TOKENS, len(window) - 1)]
            following = np.array(window[at + 1 : at + 1 + len(ids)])
            chances = _log_softmax(own.run(ids, at, cache))
            sums["tokens"] += len(ids)
            sums["nll"] += _losses(chances, following)
            if other:
                _add_difference(sums, chances, _log_softmax(other.run(ids, at, other_cache)), following)
            beat()
    tokens = sums.pop("tokens")
    return {"tokens": int(tokens), **{name: round(total / tokens, 4) for name, total in sums.items()}}


def compare_vectors(graph: Path, source: Path, beat: Callable[[], None] = lambda: None) -> dict[str, float]:
    """Run an encoder's graph over the text's lines, beside that of its source: figures for the description.

    `texts` are lines. Of embeddings `cosine` is the mean with the source's, `least_cosine` the smallest; of a
    reranker's scores, of every line with the one after it, `score_error` is the root mean square difference in
    standard deviations of the source's scores.
    """
    tokenizer = Tokenizer.from_file(str(graph.parent / TOKENIZER))
    tokenizer.no_padding()
    tokenizer.enable_truncation(read_description(graph.parent).context_length)
    options = _options()
    own, other = (ort.InferenceSession(path, options, providers=["CPUExecutionProvider"]) for path in (graph, source))
    ranks = "token_type_ids" in {value.name for value in own.get_inputs()}
    lines = [line for line in TEXT.read_text(encoding="utf-8").splitlines() if line]
    texts = list(pairwise(lines)) if ranks else lines
    results = []
    for text in texts:
        encoding = tokenizer.encode(*text) if isinstance(text, tuple) else tokenizer.encode(text)
        feeds = {"input_ids": np.array([encoding.ids]), "attention_mask": np.ones((1, len(encoding.ids)), np.int64)}
        if ranks:
            feeds["token_type_ids"] = np.array([encoding.type_ids])
        results.append([session.run(None, feeds)[0][0].astype(np.float64) for session in (own, other)])
        beat()
    mine, theirs = (np.stack(column) for column in zip(*results, strict=True))
    if ranks:
        error = float(np.sqrt(((mine - theirs) ** 2).mean()) / max(theirs.std(), np.finfo(np.float64).tiny))
        return {"texts": len(texts), "score_error": round(error, 4)}
    cosines = (mine * theirs).sum(axis=1) / np.linalg.norm(mine, axis=1) / np.linalg.norm(theirs, axis=1)
    return {
        "texts": len(texts),
        "cosine": round(float(cosines.mean()), 5),
        "least_cosine": round(float(cosines.min()), 5),
    }


def _add_difference(sums: dict[str, float], own: Floats, source: Floats, following: NDArray[np.int64]) -> None:
    """Add what a few tokens say of two graphs, given log probabilities [tokens, vocabulary]."""
    sums["source_nll"] += _losses(source, following)
    sums["top1"] += float((own.argmax(axis=-1) == source.argmax(axis=-1)).sum())
    sums["kl"] += float((np.exp(source) * (source - own)).sum(dtype=np.float64))


def _losses(chances: Floats, following: NDArray[np.int64]) -> float:
    return -float(chances[np.arange(len(chances)), following].sum(dtype=np.float64))


def _log_softmax(logits: Floats) -> Floats:
    logits = logits - logits.max(axis=-1, keepdims=True)
    logits -= np.log(np.exp(logits).sum(axis=-1, keepdims=True, dtype=np.float64)).astype(np.float32)
    return logits


def round_trip(folder: Path) -> dict[str, int | bool]:
    """The text through the tokenizer of the bundle `folder` and back.

    `tokens` of the text; `stable`: what they decode to makes the same tokens; `changed_words`: how many words of the
    text are not in what they decode to, which is no mistake of a tokenizer that lower-cases.
    """
    tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
    ids = calibration_tokens(folder)
    back = tokenizer.decode(ids, skip_special_tokens=False)
    changed = Counter(TEXT.read_text(encoding="utf-8").split()) - Counter(back.split())
    stable = tokenizer.encode(back, add_special_tokens=False).ids == ids
    return {"tokens": len(ids), "stable": stable, "changed_words": changed.total()}


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
        if matrix.producer() is not None:  # rows that were looked up
            continue
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


def _options() -> ort.SessionOptions:
    """As the engine has them, where they change results."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    for entry in product_settings().items():
        options.add_session_config_entry(*entry)
    return options


class _Graph:
    """A graph of a bundle, run on one sequence."""

    def __init__(self, model: Path | bytes, capacity: int, weights: Path | None = None) -> None:
        """`weights` is the folder of the weights file of a model that is no file."""
        options = _options()
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
            if name not in self.inputs:  # query_seqlens, in a graph of one sequence
                continue
            binding.bind_cpu_input(name, array)
        for name, value in cache.items():
            binding.bind_ortvalue_input(name, value)
            binding.bind_ortvalue_output(name.replace("past_", "present_", 1), value)
        for name in names:
            binding.bind_output(name)
        self.session.run_with_iobinding(binding)
        arrays = binding.get_outputs()[-len(names) :]
        return {name: array.numpy() for name, array in zip(names, arrays, strict=True)}
