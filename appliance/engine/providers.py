"""Which execution provider runs a graph here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import onnxruntime as ort
import psutil

from appliance.errors import ApplianceError


@dataclass(frozen=True, slots=True)
class Provider:
    """An execution provider: the name people use, ONNX Runtime's, and the device its tensors live on."""

    setting: str
    name: str
    label: str
    device: str


CPU = Provider("cpu", "CPUExecutionProvider", "CPU", "cpu")
CUDA = Provider("cuda", "CUDAExecutionProvider", "CUDA", "cuda")
DIRECTML = Provider("directml", "DmlExecutionProvider", "DirectML", "cpu")  # the arena stays in host memory
BEST_FIRST = (CUDA, DIRECTML, CPU)


def choose(setting: str, available: list[str] | None = None) -> Provider:
    """The provider for `setting` ("auto" takes the best present).

    Raises ApplianceError when the provider is unknown or this ONNX Runtime build does not have it.
    """
    present = ort.get_available_providers() if available is None else available
    if setting == "auto":
        return next(provider for provider in BEST_FIRST if provider.name in present)
    for provider in BEST_FIRST:
        if provider.setting == setting:
            if provider.name not in present:
                raise ApplianceError(
                    f"execution provider {setting} is not in this build of ONNX Runtime; present: "
                    + ", ".join(p.setting for p in BEST_FIRST if p.name in present)
                )
            return provider
    names = ", ".join(("auto", *(p.setting for p in BEST_FIRST)))
    raise ApplianceError(f"unknown execution provider {setting!r}; one of: {names}")


def session_options(threads: int) -> Any:
    """Session options for one model: `threads` intra-op threads, 0 for one per physical core."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or psutil.cpu_count(logical=False) or 1
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    return options
