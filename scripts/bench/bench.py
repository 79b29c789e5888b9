"""What every scenario starts from: the model, our bundle of it, and servers of both kinds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from scripts.bench.core import LLAMA, OURS, Case, Embedding, Figures, Sizes
from scripts.bench.dialects import Ask, user
from scripts.bench.prompts import Prompts
from scripts.bench.servers import Server, appliance, install, llama_server, load

Measure = Callable[[Server], Figures]
WARM_UP_TOKENS = 16


@dataclass(slots=True)
class Bench:
    """One call of the suite. `work` is a temporary folder: our store, logs."""

    model: Path
    work: Path
    recipe: str
    kv: str
    threads: int
    llama: Path | None = None
    """The folder with llama.cpp's binaries."""
    llama_model: Path | None = None
    """What the peer runs, where that is not `model`."""
    genai: Path | None = None
    """A model folder of onnxruntime-genai."""
    genai_source: Path | None = None
    """A Hugging Face folder for onnxruntime-genai's builder."""
    genai_python: str = sys.executable
    embedding: Embedding | None = None
    """The models of the scenario that embeds."""
    sizes: Sizes = field(default_factory=Sizes)
    temperature: float = 0.0
    speculate: bool = False
    """Whether our engine may guess tokens ahead. llama.cpp does not unless told to."""
    case: str | None = None
    """The only case to run of scenarios that have several."""
    prompts: Prompts = field(default_factory=Prompts)
    _bundle: Path | None = None

    @property
    def peer_model(self) -> Path:
        """The file that llama.cpp runs."""
        return self.llama_model or self.model

    @property
    def bundle(self) -> Path:
        """Our bundle of the model in the store, made at the first call."""
        if self._bundle is None:
            with appliance(self.work, self._settings()) as server:
                print(f"converting {self.model.name}", file=sys.stderr)
                install(server, self.model)
            found = sorted((self.work / "models").rglob("bundle.json"))
            if len(found) != 1:
                raise RuntimeError(f"the server left {len(found)} bundles in its store, not one")
            self._bundle = found[0].parent
        return self._bundle

    @property
    def context(self) -> int:
        """The longest context of the model in tokens."""
        return int(json.loads((self.bundle / "bundle.json").read_text(encoding="utf-8"))["context_length"])

    def ours(self, slots: int, context: int) -> AbstractContextManager[Server]:
        """Our server with the model installed, not yet loaded; `context` is that of each slot."""
        assert self.bundle
        settings = {"OLLAMA_NUM_PARALLEL": str(slots), "OLLAMA_CONTEXT_LENGTH": str(context)}
        return appliance(self.work, self._settings() | settings)

    def theirs(self, slots: int, context: int) -> AbstractContextManager[Server]:
        """llama-server; `context` is that of each slot."""
        assert self.llama
        return llama_server(
            self.llama, self.peer_model, slots=slots, context=slots * context, threads=self.threads, work=self.work
        )

    def served(self, name: str, slots: int, context: int, measure: Measure, *, prompt: int = 0) -> Case:
        """A case that measures servers, ours and the peer's, loaded and warm; `prompt` tokens are calibrated first."""

        def once(start: Callable[[int, int], AbstractContextManager[Server]]) -> Figures:
            with start(slots, context) as server:
                load(server)
                if prompt:
                    self.prompts.calibrate(prompt, server.count)
                server.ask([Ask((user(self.prompts.words(prompt or 64)),), WARM_UP_TOKENS)])
                return measure(server)

        contestants = {OURS: lambda: once(self.ours)}
        if self.llama:
            contestants[LLAMA] = lambda: once(self.theirs)
        return Case(name, contestants)

    def _settings(self) -> dict[str, str]:
        return {
            "APPLIANCE_RECIPE": self.recipe,
            "OLLAMA_KV_CACHE_TYPE": self.kv,
            "APPLIANCE_THREADS": str(self.threads),
            "APPLIANCE_SPECULATE": "on" if self.speculate else "off",
        }


def default_model() -> Path:
    """The model that a fresh appliance starts with, fetched on first use."""
    command = [sys.executable, "-m", "converters.default_model", str(Path("~/.cache/edge-appliance").expanduser())]
    return Path(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip().splitlines()[-1])


def spawn(command: list[str]) -> tuple[str, float]:
    """What a process prints, and its peak resident memory in MB. Raises RuntimeError when it fails."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as trouble:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=trouble)
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            process.wait()
            raise
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            trouble.seek(0)
            raise RuntimeError(f"{command} ended with status {process.returncode}:\n{trouble.read()[-2000:]}")
        out.seek(0)
        return out.read(), usage.ru_maxrss / 1024
