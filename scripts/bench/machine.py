"""Facts of the machine that figures are worth nothing without."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

PACKAGES = ("edge-appliance", "onnxruntime", "numpy", "llguidance", "onnxruntime-genai")
ROOT = Path(__file__).parents[2]


def facts(llama: Path | None, threads: int) -> dict[str, Any]:
    """Processor, memory, system, versions, the commit and what is changed on top of it."""
    commit = output(["git", "-C", str(ROOT), "describe", "--always", "--dirty"])
    found: dict[str, Any] = {
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": threads,
        "memory_bytes": psutil.virtual_memory().total,
        "system": platform.platform(),
        "python": platform.python_version(),
        "commit": commit or None,
        "versions": {name: number for name in PACKAGES if (number := package_version(name))},
    }
    if llama:
        found["llama.cpp"] = output([str(llama / "llama-server"), "--version"])
    return found


def package_version(name: str) -> str | None:
    """The installed version, None where it is not."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def cpu_model() -> str:
    """The processor's name, as far as the system tells."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        text = ""
    found = re.search(r"^(?:model name|Model)\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1] if found else platform.processor() or platform.machine()


def output(command: list[str]) -> str:
    """What a short command prints on both streams; nothing where it cannot run."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return (done.stdout + done.stderr).strip()


def memory_mb(pid: int) -> dict[str, float]:
    """Resident memory of a process and its children in MB: "rss", and "pss", which shares out what several map."""
    total = {"rss": 0, "pss": 0}
    process = psutil.Process(pid)
    for each in (process, *process.children(recursive=True)):
        try:
            text = Path(f"/proc/{each.pid}/smaps_rollup").read_text(encoding="utf-8")
        except OSError:  # it ended meanwhile
            continue
        for name in total:
            if found := re.search(rf"^{name}:\s+(\d+) kB", text, re.MULTILINE | re.IGNORECASE):
                total[name] += int(found[1])
    return {name: kilobytes / 1024 for name, kilobytes in total.items()}
