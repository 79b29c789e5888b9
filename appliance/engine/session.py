"""Opening a graph on an execution provider."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnxruntime as ort

from appliance.engine.probe import missing_library
from appliance.engine.providers import CPU, Provider, session_options
from appliance.errors import ModelFileError, first_line
from appliance.memory import page_out

PROBE_TOKENS = 16


def probe_tokens(vocab_size: int) -> range:
    """Tokens from all over a vocabulary, for a graph's first run."""
    return range(0, vocab_size, vocab_size // PROBE_TOKENS + 1)


def open_session(path: Path, provider: Provider, options: Any, records: bool = False) -> Any:
    """The graph in this file, loaded; it `records` runs that have a number, see recorded.py. Raises ModelFileError."""
    return _open(path, provider, options, [(provider.name, {"enable_cuda_graph": "1"} if records else {})])


def open_mixed_session(path: Path, provider: Provider, threads: int, spin: bool) -> Any:
    """The same for a graph that others made, of which an accelerator may leave small nodes to the CPU."""
    options = session_options(CPU, threads, spin)
    session = _open(path, provider, options, list(dict.fromkeys([provider.name, CPU.name])))
    if provider.name not in session.get_providers():  # ONNX Runtime says why in its log alone
        raise ModelFileError(f"{provider.label} does not start")
    return session


def _open(path: Path, provider: Provider, options: Any, providers: list[Any]) -> Any:
    if complaint := missing_library(provider):
        raise ModelFileError(complaint)
    try:
        session = ort.InferenceSession(str(path), options, providers=providers, enable_fallback=0)
    except Exception as error:  # ONNX Runtime's exceptions share no base below Exception
        raise ModelFileError(f"ONNX Runtime cannot load the graph: {first_line(error, path.parent)}") from error
    page_out(path.parent)  # before another graph of the bundle is read
    return session
