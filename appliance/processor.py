"""What the processor can do, as Linux tells it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path

# Instructions that ONNX Runtime has kernels of its own for: how Linux names them, how people do.
INSTRUCTIONS = {
    "avx2": "AVX2",
    "avx512f": "AVX-512",
    "avx_vnni": "AVX-VNNI",
    "avx512_vnni": "AVX512-VNNI",
    "amx_int8": "AMX",
    "asimd": "NEON",
    "asimddp": "dot products",
    "i8mm": "I8MM",
}
INTEGER_PRODUCTS = frozenset({"avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm"})
UNCLIPPED = frozenset({"avx_vnni", "avx512_vnni"})


def read_cpuinfo(path: Path = Path("/proc/cpuinfo")) -> str:
    """What Linux says of the processor; "" elsewhere."""
    return path.read_text(encoding="utf-8", errors="replace") if os.access(path, os.R_OK) else ""


def instruction_sets(cpuinfo: str) -> frozenset[str]:
    """Those of INSTRUCTIONS that a /proc/cpuinfo names, in Linux' spelling."""
    words: set[str] = set()
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            words.update(value.split())
    return frozenset(INSTRUCTIONS.keys() & words)


@cache
def product_settings() -> Mapping[str, str]:
    """Entries of a session's configuration that keep int8 products whole.

    Without VNNI, x86-64 clips pairs of them to 16 bits unless ONNX Runtime is told to add up in 32; told so needlessly,
    it is slower: a prompt of 512 tokens, Gemma 3 270M in int8 on a Zen 4 with VNNI, takes 521 ms instead of 307.
    """
    if instruction_sets(read_cpuinfo()) & UNCLIPPED:
        return {}
    return {"session.x64quantprecision": "1"}
