"""From the start of a server's process to its first token, with the model's files in the page cache and without.

Cold means that the pages of the model's files (our bundle's, the peer's GGUF) were dropped with posix_fadvise, which
needs no privilege. The programs' own files stay cached. How much of the model stayed nevertheless is a figure too.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

from scripts.bench.bench import Bench
from scripts.bench.core import LLAMA, OURS, Case, Figures, Metric
from scripts.bench.dialects import Ask, user
from scripts.bench.servers import Server

SLOTS, CONTEXT = 4, 4096
METRICS = (
    Metric("answers", "s", "less", 2),
    Metric("first token", "s", "less", 2),
    Metric("model files cached at the start", "%"),
)


def cases(bench: Bench) -> list[Case]:
    """Warm and cold. Our server answers before it has loaded a model; the first token is what compares."""

    def case(name: str, prepare: Callable[[Sequence[Path]], None]) -> Case:
        # The bundle is made when the case runs, not when it is listed.
        contestants: dict[str, Callable[[], Figures]] = {
            OURS: lambda: start(bench.ours, prepare, sorted(bench.bundle.iterdir()))
        }
        if bench.llama:
            contestants[LLAMA] = lambda: start(bench.theirs, prepare, [bench.peer_model])
        return Case(name, contestants)

    return [case("warm", warm), case("cold", partial(cold))]


def start(
    server_of: Callable[[int, int], AbstractContextManager[Server]],
    prepare: Callable[[Sequence[Path]], None],
    files: Sequence[Path],
) -> Figures:
    """Start a server and ask it one short question at once."""
    prepare(files)
    share = cached_share(files)
    started = time.perf_counter()
    with server_of(SLOTS, CONTEXT) as server:
        answer = server.ask([Ask((user("Why is the sky blue?"),), 2)])[0]
        return {
            "answers": server.ready_s,
            "first token": answer.first - started,
            "model files cached at the start": 100 * share,
        }


def warm(files: Sequence[Path]) -> None:
    """Read the files, so that they lie in the page cache."""
    for path in files:
        with path.open("rb", buffering=0) as file:
            while file.read(1 << 24):
                pass


def cold(files: Sequence[Path]) -> None:
    """Drop the files from the page cache; pages that are not yet on disk are written first."""
    for path in files:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def cached_share(files: Sequence[Path]) -> float:
    """The share of the files' pages that lies in the page cache, by mincore(2). Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    pages = cached = 0
    for path in files:
        size = path.stat().st_size
        if not size:
            continue
        count = -(-size // mmap.PAGESIZE)
        seen = (ctypes.c_ubyte * count)()
        with path.open("rb") as file, mmap.mmap(file.fileno(), size, flags=mmap.MAP_PRIVATE) as mapped:
            anchor = ctypes.c_char.from_buffer(mapped)
            try:
                if libc.mincore(ctypes.c_void_p(ctypes.addressof(anchor)), ctypes.c_size_t(size), seen):
                    raise OSError(ctypes.get_errno(), "mincore", str(path))
            finally:
                del anchor
        pages += count
        cached += sum(page & 1 for page in seen)
    return cached / pages if pages else 0.0
