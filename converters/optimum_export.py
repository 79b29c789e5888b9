"""Models that no file of architectures/ builds, by way of torch: optimum exports them, ONNX Runtime rounds them.

The only file that imports optimum, transformers and torch, and not before a model is to be exported. Recipes:

    exact  matrices in 8 bits, blocks of 32 (MatMulNBits), as natively built models have them
    q4     the same in 4 bits
    fp32   as exported

ONNX Runtime's dynamic int8 (weights per column, one activation scale for the whole tensor) loses 0.05 to 0.44 nats a
token where 8-bit blocks lose 0.00, so decoders do not get it. ONNX Runtime's transformer optimiser takes out two of
five nodes that a session would keep (a GPT-2 of four layers: 443 to 273), so it runs first, except for attention, whose
fusion wants another cache.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort

from appliance.bundle import MODEL, Bundle
from appliance.errors import ModelFileError, UnsupportedModel, first_line
from appliance.store.hugging_face import CONFIG, Files, folder_files, read_object
from converters.onnx_folder import fill, read_onnx, read_signature, trial
from converters.partial import whole_or_not

TASK = "text-generation-with-past"
BITS = {"exact": 8, "q4": 4}
BLOCK = 32
FUSIONS = "gpt2"  # the optimiser's set for decoders
SAME = 1e-3  # of the logits' spread: sums in another order
RECIPES = ("exact", "q4", "fp32")
ROOM = 3  # exported in float32 and rounded beside it, from files of at least 16 bits a weight


def export(source: Path, folder: Path, recipe: str, kv: str, native: tuple[str, ...], floor: int = 0) -> Bundle:
    """Export the Hugging Face folder `source` into the bundle `folder`, which must not exist.

    `native` are the model types that need no torch, for the error text. Raises UnsupportedModel for what optimum does
    not know and for recipes not named above, ModelFileError without the extra [convert], NotEnoughDisk,
    ConversionFailed; then nothing stays behind.
    """
    files = folder_files(source)
    kind = str(read_object(files, CONFIG).get("model_type"))[:40]
    if recipe not in RECIPES or kv != "f32":
        raise UnsupportedModel(
            f"recipe {recipe} with KV cache {kv} for the model type {kind!r}, which is exported by optimum",
            tuple(f"{name} with f32" for name in RECIPES),
        )
    size = ROOM * sum(path.stat().st_size for name, path in files.items() if name.endswith((".safetensors", ".bin")))
    with whole_or_not(folder, size, floor) as partial:
        exported = partial / "exported"
        _export(source, exported, kind, native)
        _optimise(exported / MODEL)
        if recipe in BITS:
            _round(exported / MODEL, BITS[recipe])
        inside = {**folder_files(exported), **_texts(files)}
        bundle = fill(partial, inside, read_onnx(inside), recipe)
        shutil.rmtree(exported)
    return bundle


def _texts(files: Files) -> Files:
    """The small files of the source: what its publisher says of tokens comes before what was saved anew."""
    return {name: path for name, path in files.items() if name.endswith((".json", ".jinja")) and "/" not in name}


def _export(source: Path, folder: Path, kind: str, native: tuple[str, ...]) -> None:
    os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}  # read when the libraries are imported
    try:
        from optimum.exporters.onnx import main_export
    except ImportError as error:
        raise ModelFileError(
            f"the model type {kind!r} is not among those built without torch ({', '.join(native)}); "
            'to export it with optimum: pip install "edge-appliance[convert]"'
        ) from error
    # standard output belongs to the progress, and the libraries' warnings are about themselves
    with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            main_export(str(source), folder, task=TASK, do_validation=False, local_files_only=True)
        except (KeyError, ValueError, NotImplementedError) as error:
            raise UnsupportedModel(
                f"the model type {kind!r} ({first_line(error)})", (*native, "and what optimum exports")
            ) from error


def _optimise(graph: Path) -> None:
    """Have ONNX Runtime's transformer optimiser fuse norms, activations and shapes, in place, if logits stay."""
    from onnxruntime.transformers.fusion_options import FusionOptions
    from onnxruntime.transformers.optimizer import optimize_model

    logging.getLogger("onnxruntime.transformers").setLevel(logging.ERROR)
    options = FusionOptions(FUSIONS)
    options.enable_attention = False
    folder = graph.with_name("optimised")
    folder.mkdir()
    with contextlib.redirect_stdout(sys.stderr):
        model = optimize_model(str(graph), FUSIONS, optimization_options=options, opt_level=0)
        model.save_model_to_file(str(folder / MODEL), use_external_data_format=True)
    signature = read_signature(ir.load(graph))
    before, after = trial(graph, signature), trial(folder / MODEL, signature)
    if np.abs(after - before).max() <= SAME * before.std():
        for path in graph.parent.glob("*.onnx*"):
            path.unlink()
        for path in folder.iterdir():
            path.rename(graph.parent / path.name)
    shutil.rmtree(folder)


def _round(graph: Path, bits: int) -> None:
    """Round the graph's matrices, in place. An embedding stays in float32, a head that shares it becomes a copy."""
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer, ONNXModel

    logging.getLogger("onnxruntime.quantization").setLevel(logging.WARNING)
    folded = graph.with_name("folded.onnx")
    _fold(graph, folded)
    model = ONNXModel(onnx.load(folded))
    model.replace_gemm_with_matmul()
    quantizer = MatMulNBitsQuantizer(model.model, bits=bits, block_size=BLOCK, is_symmetric=True, accuracy_level=4)
    quantizer.process()
    for path in graph.parent.glob("*.onnx*"):
        path.unlink()
    quantizer.model.save_model_to_file(str(graph), use_external_data_format=True)


def _fold(graph: Path, folded: Path) -> None:
    """Compute what depends on weights alone, so that every matrix is an initializer: a transposed embedding, say."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(folded)
    for key, value in (("file_name", f"{folded.name}.data"), ("min_size_in_bytes", "1024")):
        options.add_session_config_entry(f"session.optimized_model_external_initializers_{key}", value)
    ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
