"""What each execution provider can do on this machine: found out by running a graph on it."""

from __future__ import annotations

import contextlib
import ctypes
import io
import logging
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import onnxruntime as ort

from appliance.config import AUTO
from appliance.engine.providers import BEST_FIRST, CPU, CUDA, Provider, candidates, session_options
from appliance.errors import ApplianceError, ModelFileError, first_line

log = logging.getLogger(__name__)

NEGATION = (  # an ONNX model of one node, y = -x over float32 [1], opset 13
    b'\x08\x08:2\n\x0b\n\x01x\x12\x01y"\x03Neg\x12\x01gZ\x0f\n\x01x\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01'
    b"b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01B\x04\n\x00\x10\r"
)
LOG_FATAL = 4
INSTALLED_BY = {"CUDA": "onnxruntime-gpu", "DirectML": "onnxruntime-directml"}


@dataclass(frozen=True, slots=True)
class Probe:
    """A provider, and why it cannot run graphs here; "" if it can."""

    provider: Provider
    reason: str = ""


def probe_all(available: list[str] | None = None) -> list[Probe]:
    """Every provider that the engine knows, best first. Takes some seconds where an accelerator wakes up.

    ONNX Runtime's own log is silent from here on.
    """
    ort.set_default_logger_severity(LOG_FATAL)
    installed = ort.get_available_providers() if available is None else available
    return [Probe(provider, _why_not(provider, installed)) for provider in BEST_FIRST]


@lru_cache
def usable(setting: str) -> tuple[Provider, ...]:
    """The providers for `setting` that start here, best first; the log says, once, why a better one does not.

    Raises ModelFileError when none does, and what `candidates` does.
    """
    found = []
    for provider in candidates(setting):
        reason = "" if provider is CPU else _why_not(provider, ort.get_available_providers())
        if not reason:
            found.append(provider)
        elif setting != AUTO:
            raise ModelFileError(f"{provider.label} does not start here: {reason}")
        else:
            log.warning("%s does not start here, trying the next provider: %s", provider.label, reason)
    return tuple(found)


def missing_library(provider: Provider) -> str:
    """The loader's complaint when a library that `provider` is made of does not load; "" when nothing is amiss.

    ONNX Runtime itself says so in its log alone, and goes on without the provider.
    """
    library = Path(ort.__file__).parent / "capi" / "libonnxruntime_providers_cuda.so"
    if provider is not CUDA or not library.exists():
        return ""
    _find_packaged_libraries()
    try:
        ctypes.CDLL(str(library.with_name("libonnxruntime_providers_shared.so")), ctypes.RTLD_GLOBAL)
        ctypes.CDLL(str(library))
    except OSError as error:
        return str(error).replace(f"{library.parent}/", "")
    return ""


@lru_cache
def _find_packaged_libraries() -> None:
    """Load the CUDA libraries that pip installed, which ONNX Runtime finds only when asked to."""
    with contextlib.redirect_stdout(io.StringIO()):  # what it misses the loader says better
        ort.preload_dlls()


def _why_not(provider: Provider, installed: list[str]) -> str:
    if provider.name not in installed:
        package = INSTALLED_BY.get(provider.label)
        return "not in this build of ONNX Runtime" + (f", but in the package {package}" if package else "")
    if complaint := missing_library(provider):
        return complaint
    try:
        _run_negation(provider)
    except Exception as error:  # ONNX Runtime's exceptions share no base below Exception
        return first_line(error)
    return ""


def _run_negation(provider: Provider) -> None:
    session = ort.InferenceSession(
        NEGATION, session_options(provider, threads=1), providers=[provider.name], enable_fallback=0
    )
    (result,) = session.run(None, {"x": np.array([2.5], np.float32)})
    if result[0] != -2.5:
        raise ApplianceError(f"it computes -2.5 as {result[0]}")
