"""One file per model architecture: its configuration, tensor names and graph.

An architecture is a module with a NAME (GGUF's general.architecture), `read_config` and `build`, registered here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from appliance.store.gguf_header import TensorInfo
from converters.architectures import (
    bert,
    decoder,
    encoder,
    gemma,
    gemma2,
    gemma3,
    granite,
    granitemoe,
    llama,
    modernbert,
    nomic_bert,
    phi3,
    qwen2,
    qwen3,
    qwen3moe,
    smollm3,
)
from converters.graph import Graph
from converters.recipes.base import Recipe

Config = decoder.Config | encoder.Config


class Architecture(Protocol):
    """What a module of this package offers."""

    NAME: str

    def read_config(self, metadata: Mapping[str, Any], tensors: Mapping[str, TensorInfo]) -> Config:
        """Read and check everything that the graph depends on.

        Raises NotGGUF for what is missing or has another shape, UnsupportedModel for what the graph cannot express.
        """
        ...

    def build(self, graph: Graph, weights: Recipe, config: Any) -> None:
        """Add the whole model to the graph; `config` is what `read_config` returned."""
        ...


ARCHITECTURES: Mapping[str, Architecture] = {
    llama.NAME: llama,
    gemma.NAME: gemma,
    gemma2.NAME: gemma2,
    gemma3.NAME: gemma3,
    phi3.NAME: phi3,
    qwen2.NAME: qwen2,
    qwen3.NAME: qwen3,
    smollm3.NAME: smollm3,
    granite.NAME: granite,
    qwen3moe.NAME: qwen3moe,
    granitemoe.NAME: granitemoe,
    bert.NAME: bert,
    nomic_bert.NAME: nomic_bert,
    modernbert.NAME: modernbert,
}
