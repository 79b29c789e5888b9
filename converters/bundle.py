"""One conversion from end to end: a GGUF file in, a bundle folder out, whole or not at all.

Everything that can be refused is refused from the header, before a byte is written. The bundle grows in
FOLDER.partial-<pid> and is renamed to FOLDER when all of it is on disk.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import psutil

from appliance.bundle import (
    BATCH,
    CHAT_TEMPLATE,
    DECODER_RECIPES,
    ENCODER_RECIPES,
    ENCODER_TARGETS,
    KV_TYPES,
    MODEL,
    TOKENIZER,
    Bundle,
    write_description,
)
from appliance.bundle import RECIPES as NAMES
from appliance.errors import ConversionFailed, NotEnoughMemory, NotGGUF, UnsupportedModel
from appliance.store.disk import Space
from appliance.store.hugging_face import CONFIG, folder_files, read_object
from converters.architectures import ARCHITECTURES, Config, encoder
from converters.bars import judged, judged_vectors
from converters.fidelity import calibration_tokens, compare, compare_vectors, importance, round_trip
from converters.graph import ENCODER_OPSET, OPSET, Graph
from converters.hugging_face import FAMILIES
from converters.kv_cache import cache_in_int8, cache_scales
from converters.onnx_folder import convert_onnx, is_onnx
from converters.optimum_export import export
from converters.partial import whole_or_not
from converters.peft import open_model
from converters.recipes import RECIPES
from converters.recipes.base import Recipe
from converters.recipes.compact import FourBits
from converters.recipes.exact import Exact
from converters.recipes.rotated import rotated
from converters.source import Source
from converters.targets import CPU, TARGETS, Target
from converters.tokenizers import Vocabulary, read_vocabulary
from converters.weights import WeightsFile

PRODUCER = "edge-appliance"
ROTATED = "int8-rotated"
ROTATED_DECODES_WITH = "compact"  # few rows: bytes are what takes time
NOT_EXACT = ("compact", "q4", "int8")  # what they lose is measured against a bundle of the recipe exact
REFERENCE = "reference"  # in a bundle in the making: what it is measured against
SOURCE_FACTOR = 1.3  # the memory that running the reference takes for each byte of its weights
CHECK_FACTOR = 1.7  # and that running it beside the bundle takes for each byte of both
DESCRIPTION_BYTES = 1 << 20  # more than bundle.json ever takes

Progress = Callable[[int, int], None]  # completed and total bytes of the source


class Choice(NamedTuple):
    """What a conversion makes of a file, and whether it holds it against the file's values in float32."""

    recipe: str
    kv: str
    check: bool = False
    target: Target = CPU
    floor: int = 0  # bytes of the disk to leave free


@dataclass(frozen=True, slots=True)
class Plan:
    """A checked conversion: all decided, nothing written. `weights` fills itself from the open source."""

    architecture: str
    config: Config
    vocabulary: Vocabulary
    recipe: Recipe
    graph: Graph
    batch: Graph | None
    weights: WeightsFile
    tokenizer: bytes

    @property
    def size(self) -> int:
        """Bytes the bundle will take on disk."""
        texts = len(self.tokenizer) + len(self.vocabulary.chat_template.encode())
        graphs = sum(len(graph.serialized(PRODUCER)) for graph in self.graphs.values())
        return self.weights.size + graphs + texts + DESCRIPTION_BYTES

    @property
    def graphs(self) -> dict[str, Graph]:
        """The graphs by the name of their file."""
        return {MODEL: self.graph} | ({BATCH: self.batch} if self.batch else {})


def convert(
    source: Path,
    folder: Path,
    recipe: str = "exact",
    progress: Progress = lambda done, total: None,
    kv: str = "f32",
    check: bool = False,
    target: str = "cpu",
    adapter: Path | None = None,
    floor: int = 0,
) -> Bundle:
    """Convert the GGUF file `source` into the bundle `folder`, which must not exist; returns its description.

    `target` is the execution provider that will run it. An adapter, a GGUF file or a folder of PEFT's, is merged into
    it. With `check` the bundle is held against the source's values in float32, whatever the recipe; a float16 graph
    runs on the CPU for that, which takes a minute for 135M weights. `floor` bytes of the disk are left free.

    Raises what `read_header` does, UnsupportedModel and NotGGUF for a model that cannot be expressed,
    NotEnoughDisk, ConversionFailed, for a check NotEnoughMemory; then nothing stays behind. Partial folders of dead
    runs are removed.
    """
    started = time.monotonic()
    if folder.exists():
        raise ConversionFailed("the bundle's folder exists already")
    choice = Choice(recipe, kv, check, known_target(target, recipe, kv), floor)
    if source.is_dir() and (made := _made_by_others(source, folder, choice, adapter)):
        progress(1, 1)
        return made
    with open_model(source, adapter) as model:
        total = sum(tensor.size for tensor in model.tensors.values())
        meter = _Meter(progress, total)
        plan = make_plan(model, recipe, kv, meter.advance, choice.target)
        with whole_or_not(folder, plan.size, floor) as partial:
            bundle = _write(plan, model, choice, partial, started)
    progress(total, total)
    return bundle


def _made_by_others(source: Path, folder: Path, choice: Choice, adapter: Path | None) -> Bundle | None:
    """The bundle of a folder with ONNX graphs, or of a model type that only optimum builds; None for any other."""
    files = folder_files(source)
    foreign = CONFIG in files and read_object(files, CONFIG).get("model_type") not in FAMILIES
    if not is_onnx(files) and not foreign:
        return None
    if choice.target != CPU:
        raise UnsupportedModel(f"target {choice.target.name} for a graph that others made", (CPU.name,))
    if adapter:
        raise UnsupportedModel("an adapter for a graph that others made", ("models that are built natively",))
    if choice.check:
        raise UnsupportedModel("a check of a graph that others made", ("models that are built natively",))
    if is_onnx(files):
        return convert_onnx(files, folder, choice.recipe, choice.kv, choice.floor)
    return export(source, folder, choice.recipe, choice.kv, tuple(FAMILIES), choice.floor)


def known_target(name: str, recipe: str, kv: str) -> Target:
    """The target of this name; raises UnsupportedModel for what its provider has no kernels for."""
    if name not in TARGETS:
        raise UnsupportedModel(f"target {name[:40]!r}", tuple(TARGETS))
    if name != CPU.name and (recipe in (ROTATED, "int8") or kv != "f32"):
        raise UnsupportedModel(f"recipe {recipe} with KV cache {kv} for {name}", ("exact, compact, q4, fp32 with f32",))
    return TARGETS[name]


def make_plan(
    source: Source,
    recipe: str,
    kv: str,
    progress: Callable[[int], None],
    target: Target = CPU,
    vocabulary: Vocabulary | None = None,
) -> Plan:
    """Check the model and lay out the whole bundle in memory, except the weights.

    `vocabulary` is the model's, if it has been read for another plan.
    """
    metadata = source.metadata
    for kind, value, known in (("recipe", recipe, NAMES), ("KV cache type", kv, KV_TYPES)):
        if value not in known:
            raise UnsupportedModel(f"{kind} {value!r}", known)
    name = metadata.get("general.architecture")
    if name is None:
        raise NotGGUF("a damaged model: metadata general.architecture is missing")
    if not isinstance(name, str) or name not in ARCHITECTURES:
        raise UnsupportedModel(f"architecture {str(name)[:40]!r}", tuple(ARCHITECTURES))
    if metadata.get("general.type", "model") != "model":
        raise UnsupportedModel(f"a file of type {str(metadata['general.type'])[:40]!r}", ("model",))
    architecture = ARCHITECTURES[name]
    vocabulary = vocabulary or read_vocabulary(metadata, source.files)
    config = architecture.read_config(metadata, source.tensors)
    weights = WeightsFile()
    check = _check_encoder if config.pooling else _check_decoder
    check(vocabulary, recipe, kv, target)
    opset = ENCODER_OPSET if isinstance(config, encoder.Config) else OPSET
    graph, batch = Graph(weights, opset, target), None
    chosen = RECIPES[ROTATED_DECODES_WITH if recipe == ROTATED else recipe](graph, source, progress)
    architecture.build(graph, chosen, config)
    if recipe == ROTATED:
        assert isinstance(chosen, Exact)
        batch = Graph(weights)
        architecture.build(batch, rotated(batch, source, chosen), config)
    tokenizer = vocabulary.tokenizer.to_str().encode()
    return Plan(name, config, vocabulary, chosen, graph, batch, weights, tokenizer)


def _check_encoder(vocabulary: Vocabulary, recipe: str, kv: str, target: Target) -> None:
    if recipe not in ENCODER_RECIPES:
        raise UnsupportedModel(f"recipe {recipe!r} for a model that embeds or ranks", ENCODER_RECIPES)
    if kv != "f32":
        raise UnsupportedModel(f"KV cache type {kv!r} for a model without a KV cache", ("f32",))
    if not target.encodes:
        raise UnsupportedModel(f"target {target.name} for a model that embeds or ranks", ENCODER_TARGETS)


def _check_decoder(vocabulary: Vocabulary, recipe: str, kv: str, target: Target) -> None:
    if recipe not in DECODER_RECIPES:
        raise UnsupportedModel(f"recipe {recipe!r} for a model that writes text", DECODER_RECIPES)
    vocabulary.check_decoder()


def _write(plan: Plan, source: Source, choice: Choice, folder: Path, started: float) -> Bundle:
    """Write every file of the bundle into `folder`.

    What loses something is measured, and everything is when a check is asked for.
    """
    reference = _reference(plan, source, choice, folder)
    _write_files(plan, folder)
    bundle = describe(plan, source, choice.recipe, source.digest())
    bundle = replace(bundle, kv_dtype=choice.target.kv_dtype, target=choice.target.name)
    write_description(folder, bundle)
    if choice.kv != "f32":
        reference = reference or Path(shutil.copy(folder / MODEL, folder / REFERENCE))
        bundle = replace(bundle, kv_dtype="int8")
        _cache_in_int8(plan, bundle, folder)
        write_description(folder, bundle)
    elif plan.batch:
        reference = reference or folder / MODEL
    measures = _measures(plan, choice, folder, reference)
    _remove_reference(folder)
    bundle = replace(bundle, report=_report(plan.recipe, measures, started))
    write_description(folder, bundle)
    return bundle


def _reference(plan: Plan, source: Source, choice: Choice, folder: Path) -> Path | None:
    """The graph that the bundle is held against, in a bundle of its own below `folder`, if it needs one.

    For a check that is the source's values in float32: raises NotEnoughMemory or NotEnoughDisk where they have no
    room. Otherwise it is the recipe exact, if memory allows.
    """
    if not choice.check and choice.recipe not in NOT_EXACT:
        return None
    encodes, available = bool(plan.config.pooling), psutil.virtual_memory().available
    recipe = "fp32" if choice.check or encodes else "exact"
    target = replace(CPU, ragged=choice.target.ragged)  # so that what runs the bundle's own graph runs this one too
    other = make_plan(source, recipe, "f32", lambda size: plan.recipe.progress(0), target, vocabulary=plan.vocabulary)
    needed = int(CHECK_FACTOR * (plan.weights.size + other.weights.size))
    if choice.check and needed > available:
        raise NotEnoughMemory(needed, available)
    if other.weights.size * SOURCE_FACTOR > available:
        return None
    Space(folder, choice.floor).require(other.size + plan.size)
    reference = folder / REFERENCE
    reference.mkdir()
    _write_files(other, reference)
    write_description(reference, describe(other, source, recipe, ""))
    if isinstance(plan.recipe, FourBits):
        plan.recipe.importance = importance(reference)
    return reference / MODEL if needed <= available else None


def _measures(plan: Plan, choice: Choice, folder: Path, reference: Path | None) -> dict[str, Any]:
    """What the report says beside the weights; raises ConversionFailed for a bundle that misses its recipe's bar."""
    lossy = choice.kv != "f32" or choice.recipe not in ("exact", "fp32")
    if not lossy and not choice.check:
        return {}
    encodes = bool(plan.config.pooling)
    fidelity = (_vectors if encodes else _likelihood)(plan, choice, folder, reference)
    measures: dict[str, Any] = {"fidelity": fidelity} if fidelity else {}
    if choice.check:
        measures["tokenizer"] = round_trip(folder)
        if not measures["tokenizer"]["stable"] and not encodes:
            raise ConversionFailed("the tokenizer reads back other tokens than it wrote")
    return measures


def _likelihood(plan: Plan, choice: Choice, folder: Path, reference: Path | None) -> dict[str, Any]:
    own = folder / (BATCH if plan.batch else MODEL)
    fidelity: dict[str, Any] = compare(own, reference, lambda: plan.recipe.progress(0))
    if fidelity:
        fidelity["bar"] = judged(fidelity, choice.recipe, choice.kv, plan.config.vocab_size)
    return fidelity


def _vectors(plan: Plan, choice: Choice, folder: Path, reference: Path | None) -> dict[str, Any]:
    if reference is None:
        return {}
    fidelity: dict[str, Any] = compare_vectors(folder / MODEL, reference, lambda: plan.recipe.progress(0))
    return fidelity | {"bar": judged_vectors(fidelity, choice.recipe)}


def _remove_reference(folder: Path) -> None:
    if (folder / REFERENCE).is_dir():
        shutil.rmtree(folder / REFERENCE)
    (folder / REFERENCE).unlink(missing_ok=True)


def _write_files(plan: Plan, folder: Path) -> None:
    plan.weights.write(folder)
    for file_name, graph in plan.graphs.items():
        (folder / file_name).write_bytes(graph.serialized(PRODUCER))
    (folder / TOKENIZER).write_bytes(plan.tokenizer)
    if plan.vocabulary.chat_template:
        (folder / CHAT_TEMPLATE).write_text(plan.vocabulary.chat_template, encoding="utf-8")


def describe(plan: Plan, source: Source, recipe: str, digest: str) -> Bundle:
    """What a bundle says of itself before anything is measured."""
    config, vocabulary = plan.config, plan.vocabulary
    return Bundle(
        architecture=plan.architecture,
        parameters=sum(_count(tensor.shape) for tensor in source.tensors.values()),
        layers=config.layers,
        kv_heads=0 if config.pooling else config.kv_heads,
        head_dim=config.head_dim,
        hidden_size=config.hidden,
        vocab_size=config.vocab_size,
        context_length=config.context_length,
        bos_token=vocabulary.bos_token,
        eos_tokens=vocabulary.eos_tokens,
        add_bos=vocabulary.add_bos,
        recipe=recipe,
        source_digest=digest,
        **_encoder_facts(config),
    )


def _encoder_facts(config: Config) -> dict[str, Any]:
    """What is said of encoders and rerankers alone."""
    if not config.pooling:
        return {}
    facts = {"heads": config.heads, "pooling": config.pooling}
    if isinstance(config, encoder.Config) and config.ranks:
        return {"kind": "reranker", **facts}
    return {"kind": "encoder", "embedding_length": config.hidden, **facts}


def _cache_in_int8(plan: Plan, bundle: Bundle, folder: Path) -> None:
    """Write the graphs again, for a KV cache in int8 that the one in `folder` calibrates."""
    tokens = [token for token in calibration_tokens(folder) if token < bundle.vocab_size] or [0]
    scales = cache_scales(folder / MODEL, tokens[: bundle.context_length])
    for file_name, graph in plan.graphs.items():
        cache_in_int8(graph, scales)
        (folder / file_name).write_bytes(graph.serialized(PRODUCER))


def _report(recipe: Recipe, measures: dict[str, Any], started: float) -> dict[str, Any]:
    """How close the weights are to the source's, by the type they had and by name, what was measured, what it took."""
    return {
        "weights": recipe.errors(0),
        "tensors": {name: float(f"{error:.3g}") for name, error in recipe.errors(1).items()},
        **measures,
        "seconds": round(time.monotonic() - started, 2),
        "peak_bytes": peak_bytes(),
    }


def peak_bytes() -> int | None:
    """The most memory this process had resident at once, where the system tells.

    Not getrusage: its figure begins with what the parent had when it started this process.
    """
    status = Path("/proc/self/status")
    found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.exists() else None
    return int(found[1]) * 1024 if found else None


class _Meter:
    """Adds up what the recipe's jobs report."""

    def __init__(self, progress: Progress, total: int) -> None:
        self.progress = progress
        self.total = total
        self.done = 0
        self._lock = Lock()

    def advance(self, size: int) -> None:
        with self._lock:
            self.done += size
            self.progress(self.done, self.total)


def _count(shape: tuple[int, ...]) -> int:
    count = 1
    for length in shape:
        count *= length
    return count
