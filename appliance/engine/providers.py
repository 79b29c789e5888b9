"""Which execution provider runs a graph here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import onnxruntime as ort
import psutil

from appliance.errors import ApplianceError
from appliance.processor import product_settings

SPIN_US = 20
"""Decoding SmolLM2 with two threads on two cores, milliseconds a token, alone and beside another busy process:
spinning as long as ONNX Runtime likes 7.5 and 15, for 20 µs 7.4 and 12, not at all 9.0 and 9.8."""


@dataclass(frozen=True, slots=True)
class Provider:
    """An execution provider: the name people use, ONNX Runtime's, and the device its tensors live on."""

    setting: str
    name: str
    label: str
    device: str

    @property
    def on_card(self) -> bool:
        """Whether its tensors lie in a card's own memory. Decode steps are then recorded, see recorded.py."""
        return self.device != "cpu"


CPU = Provider("cpu", "CPUExecutionProvider", "CPU", "cpu")
CUDA = Provider("cuda", "CUDAExecutionProvider", "CUDA", "cuda")
DIRECTML = Provider("directml", "DmlExecutionProvider", "DirectML", "cpu")  # the arena stays in host memory
BEST_FIRST = (CUDA, DIRECTML, CPU)


def candidates(setting: str, available: list[str] | None = None) -> list[Provider]:
    """The providers to try for `setting`, best first: the one that is named, or for "auto" all that are present.

    Raises ApplianceError when the named provider is unknown or this ONNX Runtime build does not have it.
    """
    installed = ort.get_available_providers() if available is None else available
    present = [provider for provider in BEST_FIRST if provider.name in installed]
    if setting == "auto":
        return present
    named = [provider for provider in BEST_FIRST if provider.setting == setting]
    if not named:
        names = ", ".join(("auto", *(provider.setting for provider in BEST_FIRST)))
        raise ApplianceError(f"unknown execution provider {setting!r}; one of: {names}")
    if named[0] not in present:
        names = ", ".join(provider.setting for provider in present)
        raise ApplianceError(f"execution provider {setting} is not in this build of ONNX Runtime; present: {names}")
    return named


def thread_count(setting: int) -> int:
    """The threads that a model gets: as many as set, or for 0 one per physical core."""
    return setting or psutil.cpu_count(logical=False) or 1


def session_options(provider: Provider, threads: int, spin: bool = True) -> Any:
    """Session options for one model: `threads` intra-op threads, see thread_count.

    Threads that have nothing to do `spin` for SPIN_US before they sleep, or not at all.
    A graph that an accelerator cannot run whole is refused, not split: copying caches back and forth is slower
    than the CPU alone.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = thread_count(threads)
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    for entry in product_settings().items():
        options.add_session_config_entry(*entry)
    if spin:
        options.add_session_config_entry("session.intra_op.spin_duration_us", str(SPIN_US))
    else:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if provider is not CPU:
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    return options


NOT_RECORDED = -1


def run_options(shrinks: bool = False, recording: int | None = None) -> Any:
    """Options of a run; None where ONNX Runtime's own will do.

    A long run `shrinks`: what its activations took goes back when it is over, see memory.py. `recording` is the number
    of what a session that records replays, see recorded.py, or NOT_RECORDED.
    """
    if not shrinks and recording is None:
        return None
    options = ort.RunOptions()
    if shrinks:
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    if recording is not None:
        options.add_run_config_entry("gpu_graph_id", str(recording))
    return options
