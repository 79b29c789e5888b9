"""The models of the server that is asked: between them they can do all that requests ask for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tests.calling_template import CALLING
from tests.tiny_encoder import random_bert, write_gguf
from tests.tiny_model import write_tiny_gguf

TINY, VICTIM, EMBEDDER, RANKER = "tiny", "victim", "embedder", "ranker"
AT: Mapping[str, str] = {"/api/embed": EMBEDDER, "/api/embeddings": EMBEDDER, "/api/rerank": RANKER}
"""The model that can do what an endpoint is for, where that is not TINY."""
SHORT = {"num_predict": 4, "num_ctx": 128}
LONGER = {"num_predict": 48, "num_ctx": 1024}  # enough for tools, and for a call of one
THOUGHTS = "{{ if .Thinking }}<think>{{ .Thinking }}</think>{{ end }}{{ .Content }}"
TEMPLATE = (
    "{{ if .Suffix }}<pre>{{ .Prompt }}<suf>{{ .Suffix }}<mid>{{ else }}"
    + CALLING.replace("{{ .Content }}", THOUGHTS)
    + "{{ end }}"
)


@dataclass(frozen=True)
class Model:
    """A file, and what else a request to create the model says."""

    file: Path
    more: Mapping[str, Any] = field(default_factory=dict)


def write_models(folder: Path) -> dict[str, Model]:
    """The models by their names; TINY has a template for tools, thoughts and suffixes, VICTIM its file's own."""
    tiny = write_tiny_gguf(folder / "tiny.gguf")
    encoder = random_bert()
    head = {"cls.output.weight": encoder["token_types.weight"][:1], "cls.output.bias": np.zeros(1, np.float32)}
    return {
        TINY: Model(tiny, {"parameters": LONGER, "template": TEMPLATE}),
        VICTIM: Model(tiny, {"parameters": SHORT}),
        EMBEDDER: Model(write_gguf(folder / "embedder.gguf", "bert", encoder, heads=4)),
        RANKER: Model(write_gguf(folder / "ranker.gguf", "bert", encoder | head, heads=4, pooling=4)),
    }
