"""Making what is run out of what is pulled: time and peak memory, beside onnxruntime-genai's builder."""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path

from scripts.bench.bench import Bench, spawn
from scripts.bench.core import GENAI, OURS, Case, Figures, Metric

METRICS = (
    Metric("time", "s", "less", 1),
    Metric("peak memory", "MB", "less"),
)
BUILT_AS = "int4"
"""The builder's precision: the one its documentation begins with, and its smallest."""


def cases(bench: Bench) -> list[Case]:
    """Our converters on the model; on a Hugging Face folder, where there is one, the builder beside them."""
    found = [Case("GGUF", {OURS: lambda: ours(bench, bench.model)})]
    if source := bench.genai_source:
        found.append(Case("safetensors", {OURS: lambda: ours(bench, source), GENAI: lambda: builder(bench, source)}))
    return found


def ours(bench: Bench, source: Path) -> Figures:
    """`python -m converters`, with the recipe and KV cache that the bench measures."""
    how = ["--recipe", bench.recipe, "--kv", bench.kv]
    return _timed(bench, [sys.executable, "-m", "converters", str(source), *how, "--out"])


def builder(bench: Bench, source: Path) -> Figures:
    """The builder for its CPU provider."""
    how = ["-i", str(source), "-p", BUILT_AS, "-e", "cpu", "-c", str(bench.work / "cache")]
    return _timed(bench, [bench.genai_python, "-m", "onnxruntime_genai.models.builder", *how, "-o"])


def _timed(bench: Bench, command: list[str]) -> Figures:
    """Run a command that makes the folder which is its last argument."""
    folder = bench.work / "converted"
    started = time.perf_counter()
    try:
        _, memory = spawn([*command, str(folder)])
        return {"time": time.perf_counter() - started, "peak memory": memory}
    finally:
        shutil.rmtree(folder, ignore_errors=True)
