"""How much memory models may take, how much one takes, and that what is freed goes back to the system.

Measured of a server's resident memory, in MB beyond the 100 of a server that has just started, the KV cache in use
taken off; four requests of 1,190 tokens at a time:

                                 bundle   loaded   serving   estimate
    SmolLM2-135M  exact             121      123       152        250
                  … int8 cache      121      123       153        250
                  compact           111      116       144        238
                  int8-rotated      247      257       288        401
                  fp32              542      528       555        755
    Gemma-3-270M  exact             466      285       549        664
                  int8-rotated      728      546       797        978

Of the 100, 20 are code that is given back once a model is loaded. Of Gemma's, 190 are the table of its embedding, whose
pages become resident as rows are looked up. While it loads, its 262,144 tokens take 190 MB more for a moment; the KV
cache that is then still untouched has room for that.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from appliance.bundle import Bundle
from appliance.config import Settings

MEMORY_SHARE = 0.8  # of the machine's memory, when no budget is set
CARD_SHARE = 0.9  # of a card's
OVERHEAD_BYTES = 100 * 2**20  # session, tokenizer, buffers: measured on SmolLM2
CARD_OVERHEAD_BYTES = 400 * 2**20  # the same on a card, with SmolLM2 on an H100
SCORES = 2.4  # matrices [tokens, tokens] of a head that ONNX Runtime 1.32 holds at a time: measured at 4,096 tokens
WEIGHTS_FACTOR = 1.2  # kernels keep repacked copies of some weights

MADV_PAGEOUT = 21  # Linux 5.4; older ones refuse it
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # glibc's malloc.h
MAPPED_FROM_BYTES = 2**20
TRIM_FROM_BYTES = 4 * 2**20
HEAPS = 2
MAPPING = re.compile(r"(?P<start>[0-9a-f]+)-(?P<end>[0-9a-f]+) \S+ \S+ \S+ \S+ *(?P<path>.*)")


def return_freed_memory() -> None:
    """Have the C library give large blocks back when they are freed. Call before threads start; glibc only.

    Left alone it raises the size from which blocks are mapped to 32 MB, and what a long prompt needed then stays as
    holes in the heap; and every thread gets a heap of its own, with holes of its own.
    """
    if libc := _glibc():
        libc.mallopt(M_MMAP_THRESHOLD, MAPPED_FROM_BYTES)
        libc.mallopt(M_TRIM_THRESHOLD, TRIM_FROM_BYTES)
        libc.mallopt(M_ARENA_MAX, HEAPS)


def trim() -> None:
    """Give back what lies free in the heaps now; after a model has been loaded. glibc only."""
    if libc := _glibc():
        libc.malloc_trim(0)


def page_out(folder: Path) -> None:
    """Have the system take back the mapped pages of the folder's files; reading them again loads them. Linux only.

    Kernels keep packed copies of most weights and read the file no more. Advice that drops pages for good would be
    quicker, but not safe beside threads that map other memory meanwhile.
    """
    prefix = f"{folder}{os.sep}"
    _page_out(lambda path: path.startswith(prefix))


def page_out_code() -> None:
    """Likewise for what of the libraries only starting and loading needed. What runs is read again, as it is used.

    Of a server with SmolLM2, 56 MB of files are resident once it is loaded, and 31 after this and some requests.
    """
    _page_out(lambda path: ".so" in path.rpartition(os.sep)[2])


def _page_out(wanted: Callable[[str], bool]) -> None:
    if not (libc := _glibc()):
        return
    for line in Path("/proc/self/maps").read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        mapping = MAPPING.match(line)
        if mapping and mapping["path"] and wanted(mapping["path"]):
            start, end = int(mapping["start"], 16), int(mapping["end"], 16)
            libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), MADV_PAGEOUT)


def _glibc() -> ctypes.CDLL | None:
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # musl has no such file
            return ctypes.CDLL("libc.so.6")
    return None


@dataclass(frozen=True, slots=True)
class Demand:
    """What a model asks for: `fixed` bytes, up to `slots` slots of `slot` bytes each, and up to `cache` bytes."""

    fixed: int
    slot: int
    slots: int
    cache: int

    @property
    def least(self) -> int:
        """Bytes without which it cannot be loaded."""
        return self.fixed + self.slot


@dataclass(frozen=True, slots=True)
class Grant:
    """What it gets of that: slots, prefix cache bytes, and all bytes together."""

    slots: int
    cache: int
    reserved_bytes: int


def demand(settings: Settings, bundle: Bundle, bundle_bytes: int, context: int, on_card: bool = False) -> Demand:
    """What a bundle of so many bytes wants for requests of `context` tokens; prompts' beginnings stay off cards."""
    fixed = without_cache_bytes(bundle_bytes, CARD_OVERHEAD_BYTES if on_card else OVERHEAD_BYTES)
    if bundle.kind == "decoder":
        slot = bundle.kv_bytes_per_token * context
        return Demand(fixed, slot, settings.num_parallel, 0 if on_card else settings.prefix_cache_bytes)
    return Demand(fixed + attention_bytes(bundle, context), 0, settings.num_parallel, 0)


def grant(wanted: Demand, budget: int) -> Grant:
    """As much of `wanted` as fits `budget`, which holds the least of it; the cache has what the slots leave."""
    slots = min(wanted.slots, (budget - wanted.fixed) // wanted.slot) if wanted.slot else wanted.slots
    used = wanted.fixed + slots * wanted.slot
    cache = min(wanted.cache, budget - used)
    return Grant(slots, cache, used + cache)


def attention_bytes(bundle: Bundle, tokens: int) -> int:
    """What an encoder needs for a text of so many tokens: in every head, numbers for each pair of them."""
    return int(SCORES * 4 * bundle.heads * tokens**2)


def without_cache_bytes(bundle_bytes: int, overhead: int = OVERHEAD_BYTES) -> int:
    """What a loaded model takes besides its KV cache, given the size of its bundle's files."""
    return int(bundle_bytes * WEIGHTS_FACTOR) + overhead


@dataclass(frozen=True, slots=True)
class Budget:
    """Bytes that models may take of one memory: the `whole` of it, and what is `left` beside those that are loaded."""

    whole: int
    left: int


def system_budget(settings: Settings, reserved_bytes: int) -> Budget:
    """That of the machine's memory, beside models that reserved so much of it."""
    return Budget(total_budget_bytes(settings), left_budget_bytes(settings, reserved_bytes))


def card_budget(total: int, free: int) -> Budget:
    """That of a card with so many bytes."""
    return Budget(int(total * CARD_SHARE), int(free * CARD_SHARE))


def total_budget_bytes(settings: Settings) -> int:
    """What all models together may take; does not change while the machine runs."""
    return settings.memory_budget_bytes or int(psutil.virtual_memory().total * MEMORY_SHARE)


def left_budget_bytes(settings: Settings, reserved_bytes: int) -> int:
    """What another model may take now, beside those that reserved so much."""
    if settings.memory_budget_bytes:
        return settings.memory_budget_bytes - reserved_bytes
    return int(psutil.virtual_memory().available * MEMORY_SHARE)
