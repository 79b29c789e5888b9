"""The real model for tests, fetched once, and its bundles, converted once for each state of the converters."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import converters
from converters.default_model import MODEL_SHA256, fetch

CODE = Path(converters.__file__).parent


def cache_folder() -> Path:
    """Where tests keep what is expensive to make."""
    return Path(os.environ.get("APPLIANCE_TEST_CACHE") or Path.home() / ".cache" / "edge-appliance")


def model_path() -> Path:
    """The real GGUF file."""
    cache = cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return fetch(cache)


def bundle_folder(recipe: str, kv: str = "f32") -> Path:
    """The real model's bundle of a recipe and a type of KV cache, from the cache if these very converters made it."""
    source = model_path()
    state = converter_state()
    folder = cache_folder() / "bundles" / f"{MODEL_SHA256[:12]}-{state}" / f"{recipe}-{kv}"
    with (cache_folder() / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for old in (cache_folder() / "bundles").glob("*"):
            if old != folder.parent:
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
