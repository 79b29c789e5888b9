"""What this machine and this installation can do, and what stands in the way: the findings of `appliance doctor`.

Looking changes nothing, but for a file of no bytes in the models folder that is gone again at once.
"""

from __future__ import annotations

import importlib.metadata
import platform
import re
import shutil
import socket
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from appliance import __version__
from appliance.config import AUTO, Settings
from appliance.engine.card import card_memory
from appliance.engine.probe import Probe
from appliance.engine.providers import thread_count
from appliance.memory import left_budget_bytes, total_budget_bytes
from appliance.processor import INSTRUCTIONS, INTEGER_PRODUCTS, instruction_sets

State = Literal["ok", "note", "warning", "problem"]

RUNTIMES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml")
EXTRAS: Mapping[str, tuple[str, ...]] = {"convert": ("optimum-onnx", "transformers", "torch")}
NEEDED = (1, 32)  # the first ONNX Runtime whose GroupQueryAttention takes query_seqlens, as graphs for the CPU do
LITTLE_MEMORY_BYTES = 500 * 10**6  # SmolLM2-135M takes 300 MB
LITTLE_DISK_BYTES = 2 * 10**9
NO_DISK_BYTES = 100 * 10**6


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. A "problem" keeps the server or a setting from working, a "warning" may."""

    section: str
    name: str
    state: State
    text: str


def runtime(installed: Mapping[str, str]) -> list[Finding]:
    """`installed`: versions of the packages that provide ONNX Runtime."""
    section = "Runtime"
    packages = ", ".join(f"{name} {version}" for name, version in installed.items())
    findings = [
        Finding(section, "appliance", "ok", __version__),
        Finding(section, "Python", "ok", f"{platform.python_version()} on {platform.platform()}"),
    ]
    if len(installed) > 1:
        text = f"{packages}: they overwrite each other's files; uninstall all of them, then install one"
        return [*findings, Finding(section, "ONNX Runtime", "problem", text)]
    if any(_release(version) < NEEDED for version in installed.values()):
        text = f"{packages}: older than {'.'.join(map(str, NEEDED))}, so it cannot run graphs for the CPU"
        return [*findings, Finding(section, "ONNX Runtime", "warning", text)]
    return [*findings, Finding(section, "ONNX Runtime", "ok", packages or "a build that is no package")]


def _release(version: str) -> tuple[int, ...]:
    """The first two numbers of a version."""
    return tuple(int(number) for number in re.findall(r"\d+", version)[:2])


def providers(probes: Iterable[Probe], setting: str) -> list[Finding]:
    """What each execution provider says, and which one models get with the setting `provider`."""
    section, probes = "Execution providers", list(probes)
    findings = []
    for probe in probes:
        absent = probe.reason.startswith("not in this build")
        state: State = "ok" if not probe.reason else "note" if absent else "warning"
        findings.append(Finding(section, probe.provider.label, state, probe.reason or "runs graphs"))
    chosen = [probe for probe in probes if setting in (AUTO, probe.provider.setting)]
    usable = [probe.provider.label for probe in chosen if not probe.reason]
    if usable:
        text = f"{usable[0]} ({setting})"
        return [*findings, Finding(section, "models use", "ok", text)]
    reasons = "; ".join(probe.reason for probe in chosen)
    return [*findings, Finding(section, "models use", "problem", f"none: provider is set to {setting}: {reasons}")]


def used_provider(probes: Iterable[Probe], setting: str) -> str | None:
    """The label of the provider that models get, None if there is none."""
    usable = (probe.provider for probe in probes if not probe.reason)
    return next((provider.label for provider in usable if setting in (AUTO, provider.setting)), None)


def processor(cpuinfo: str, settings: Settings) -> list[Finding]:
    """Cores, threads and instructions; `cpuinfo` is "" where the system has no such file."""
    section, found = "Processor", instruction_sets(cpuinfo)
    cores, threads = psutil.cpu_count(logical=False), psutil.cpu_count()
    names = ", ".join(name for key, name in INSTRUCTIONS.items() if key in found)
    findings = [
        Finding(section, "cores", "ok", f"{cores or '?'} ({threads} hardware threads)"),
        Finding(section, "threads of a model", "ok", str(thread_count(settings.threads))),
    ]
    if not cpuinfo:
        return [*findings, Finding(section, "instructions", "note", "the system does not tell")]
    if not found & INTEGER_PRODUCTS:
        text = f"{names or 'none that help'}; without integer dot products, quantised models run at a fraction"
        return [*findings, Finding(section, "instructions", "warning", text)]
    return [*findings, Finding(section, "instructions", "ok", names)]


def memory(settings: Settings) -> list[Finding]:
    """The machine's memory and what models may take of it, now and altogether."""
    section, machine = "Memory", psutil.virtual_memory()
    now = left_budget_bytes(settings, reserved_bytes=0)
    text = f"{_gb(now)} now, of {_gb(total_budget_bytes(settings))} at most"
    state: State = "warning" if now < LITTLE_MEMORY_BYTES else "ok"
    card = card_memory()
    return [
        Finding(section, "machine", "ok", f"{_gb(machine.total)}, of which {_gb(machine.available)} available"),
        Finding(section, "for models", state, text),
        *([Finding(section, "GPU", "ok", f"{_gb(card.total)}, of which {_gb(card.free)} free")] if card else []),
    ]


def models_folder(folder: Path) -> list[Finding]:
    """Whether models can be kept in `folder`, which need not exist yet."""
    section, there = "Models", folder
    while not there.exists() and there != there.parent:
        there = there.parent
    note = "" if there == folder else ", to be made at the first start"
    findings = [_written(section, folder, there, note)]
    free = shutil.disk_usage(there).free
    state: State = "problem" if free < NO_DISK_BYTES else "warning" if free < LITTLE_DISK_BYTES else "ok"
    return [*findings, Finding(section, "disk", state, f"{_gb(free)} free")]


def _written(section: str, folder: Path, there: Path, note: str) -> Finding:
    try:
        tempfile.TemporaryFile(dir=there).close()
    except OSError as error:
        text = f"{folder}: {there} cannot be written: {error.strerror}"
        return Finding(section, "folder", "problem", text)
    return Finding(section, "folder", "ok", f"{folder}{note}")


def server(settings: Settings, url: str, answer: Literal["ours", "another", ""]) -> list[Finding]:
    """`answer`: who answers at `url`, where clients look for the server."""
    section = "Server"
    if answer == "ours":
        return [Finding(section, "running", "ok", f"answers on {url}")]
    if answer == "another":
        text = f"another server answers on {url}; stop it (Ollama: systemctl stop ollama), or set OLLAMA_HOST"
        return [Finding(section, "running", "problem", text)]
    findings = [Finding(section, "running", "note", f"nobody answers on {url}")]
    address = f"{settings.host}:{settings.port}"
    if complaint := cannot_listen(settings.host, settings.port):
        return [*findings, Finding(section, "port", "problem", f"cannot listen on {address}: {complaint}")]
    return [*findings, Finding(section, "port", "ok", f"{address} is free")]


def cannot_listen(host: str, port: int) -> str:
    """Why no server could listen there; "" if one could."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen()
    except UnicodeError:
        return "not a host name"
    except OSError as error:
        return error.strerror or str(error)
    return ""


def extras() -> list[Finding]:
    """Which optional parts are installed."""
    findings = []
    for name, packages in EXTRAS.items():
        found = versions(packages)
        missing = [package for package in packages if package not in found]
        text = ", ".join(f"{package} {version}" for package, version in found.items())
        if missing:
            text = f'not installed ({", ".join(missing)}); pip install "edge-appliance[{name}]"'
        findings.append(Finding("Extras", name, "note" if missing else "ok", text))
    return findings


def versions(packages: Iterable[str]) -> dict[str, str]:
    """The versions of those of these packages that are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _gb(size: int) -> str:
    return f"{size / 1e9:,.1f} GB"
