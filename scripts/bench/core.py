"""The nouns of the suite: what is measured, on what, and what comes out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

Figures = dict[str, float]
"""What one run of one contestant gave, by the metric's name."""

Round = dict[str, dict[str, Figures]]
"""One round of a scenario: case name, contestant, figures."""

OURS, LLAMA, GENAI = "ours", "llama.cpp", "genai"
SENTENCE_TRANSFORMERS = "sentence-transformers"


@dataclass(frozen=True, slots=True)
class Metric:
    """A figure of a scenario. `better` is "more", "less", or "" for a fact that is no contest."""

    name: str
    unit: str
    better: str = ""
    digits: int = 0


@dataclass(frozen=True, slots=True)
class Case:
    """One setting of a scenario. `contestants` run it once and return its figures."""

    name: str
    contestants: dict[str, Callable[[], Figures]]


@dataclass(frozen=True, slots=True)
class Embedding:
    """What embeds texts, for ours (a GGUF file or a folder, and a recipe) and its peers."""

    model: Path
    recipe: str = "int8"
    gguf: Path | None = None
    """What llama.cpp runs."""
    st_python: str | None = None
    """The Python that has sentence-transformers."""
    st_model: Path | None = None
    """The folder that sentence-transformers runs."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much work the scenarios do, in tokens unless said."""

    decode: int = 128
    prefills: tuple[int, ...] = (64, 512, 2048)
    depths: tuple[int, ...] = (0, 512, 2048, 4096, 8192)
    depth_decode: int = 64
    clients: tuple[int, ...] = (1, 2, 4, 8, 16)
    """Numbers of clients."""
    requests: int = 4
    """Requests of a case with fewer clients than that."""
    prompt: int = 128
    answer: int = 128
    streams: int = 4
    """Answers that are being written when the long prompt arrives."""
    long_prompt: int = 4000
    history: int = 1000
    documents: int = 8
    """JSON documents."""
    sentences: int = 1000
    """Texts that are embedded."""
    slots: int = 4
    """Slots that the memory scenario fills."""
    slot_tokens: int = 2048


TRIAL = Sizes(
    decode=8,
    prefills=(64,),
    depths=(0, 128),
    depth_decode=8,
    clients=(1, 2),
    requests=1,
    prompt=64,
    answer=8,
    streams=2,
    long_prompt=600,
    history=200,
    documents=1,
    sentences=8,
    slots=2,
    slot_tokens=512,
)
"""Just enough to see that everything works."""
