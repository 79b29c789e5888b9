"""One stream without HTTP: decode, prefill, load, peak memory; and decode with a long context behind it."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

from scripts.bench.bench import Bench, spawn
from scripts.bench.core import GENAI, LLAMA, OURS, Case, Figures, Metric, Sizes


def metrics(sizes: Sizes) -> tuple[Metric, ...]:
    """What `cases` measures."""
    return (
        Metric("decode", "tokens/s", "more"),
        *(Metric(f"prefill {prompt}", "tokens/s", "more") for prompt in sizes.prefills),
        Metric("load", "s", "less", 2),
        Metric("peak memory", "MB", "less"),
    )


def cases(bench: Bench) -> list[Case]:
    """Each contestant in a process of its own, which does one thing after the other."""
    sizes = bench.sizes
    counts = ["--decode", str(sizes.decode), "--prefills", *map(str, sizes.prefills)]
    contestants: dict[str, Callable[[], Figures]] = {OURS: lambda: in_python(bench, OURS, counts)}
    if bench.llama:
        contestants[LLAMA] = lambda: llama(bench)
    if bench.genai:
        contestants[GENAI] = lambda: in_python(bench, GENAI, counts)
    return [Case("", contestants)]


DEPTH_METRICS = (Metric("decode", "tokens/s", "more"),)


def depth_cases(bench: Bench) -> list[Case]:
    """A case for each depth that the model's context has room for; the last is as deep as it goes."""
    decode = bench.sizes.depth_decode
    deepest = bench.context - decode - 2
    result = []
    for depth in dict.fromkeys(min(each, deepest) for each in bench.sizes.depths):
        counts = ["--decode", str(decode), "--depth", str(depth)]
        contestants: dict[str, Callable[[], Figures]] = {
            OURS: lambda counts=counts: in_python(bench, OURS, counts),  # type: ignore[misc]
        }
        if bench.llama:
            more = ["-p", "0", "-n", str(decode), "-d", str(depth)]
            contestants[LLAMA] = lambda more=more: llama_bench(bench, more)[0]  # type: ignore[misc]
        if bench.genai:
            contestants[GENAI] = lambda counts=counts: in_python(bench, GENAI, counts)  # type: ignore[misc]
        result.append(Case(f"depth {depth}", contestants))
    return result


def in_python(bench: Bench, who: str, counts: list[str]) -> Figures:
    """Our engine or onnxruntime-genai in a process that prints its figures."""
    python, module = (sys.executable, "in_engine") if who == OURS else (bench.genai_python, "in_genai")
    folder = bench.bundle if who == OURS else bench.genai
    command = [python, "-m", f"scripts.bench.{module}", str(folder), "--threads", str(bench.threads), *counts]
    if who == OURS and bench.speculate:
        command.append("--speculate")
    out, memory = spawn([*command, "--started", str(time.time())])
    return {**json.loads(out), "peak memory": memory}


def llama(bench: Bench) -> Figures:
    """llama-bench; its load time is that of a run which evaluates one token and ends."""
    started = time.perf_counter()
    llama_bench(bench, ["-p", "1", "-n", "0", "--no-warmup"])
    load = time.perf_counter() - started
    prefills = ",".join(map(str, bench.sizes.prefills))
    figures, memory = llama_bench(bench, ["-p", prefills, "-n", str(bench.sizes.decode)])
    return {**figures, "load": load, "peak memory": memory}


def llama_bench(bench: Bench, more: list[str]) -> tuple[Figures, float]:
    """A run of llama-bench with flash attention: tokens per second, and peak memory in MB."""
    assert bench.llama
    command = [str(bench.llama / "llama-bench"), "-m", str(bench.peer_model), "-t", str(bench.threads)]
    out, memory = spawn([*command, "-fa", "1", "-r", "1", "-o", "json", *more])
    results = json.loads(out)
    return {f"prefill {each['n_prompt']}" if each["n_prompt"] else "decode": each["avg_ts"] for each in results}, memory
