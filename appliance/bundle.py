"""What a bundle says about itself: `bundle.json` beside the graph, written by the converters, read by the engine.

A bundle is a folder: model.onnx, model.onnx.data, tokenizer.json, chat_template.jinja (if the source has one),
bundle.json. Its folder is renamed into place only when all of it is on disk, so a bundle that exists is whole.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from appliance.errors import ModelFileError

FORMAT_VERSION = 1
CONVERTER_VERSION = 6  # raise it when a graph of an older converter should be built anew
DESCRIPTION = "bundle.json"
MODEL = "model.onnx"
BATCH = "batch.onnx"  # a second graph over the same KV cache and weights file, for runs of many tokens
WEIGHTS = "model.onnx.data"
TOKENIZER = "tokenizer.json"
CHAT_TEMPLATE = "chat_template.jinja"
CHECKSUMS = "SHA256SUMS"  # of all its files, as sha256sum writes and checks them; bundles of old versions have none
PREFIXES = "prefixes"  # a folder that the engine keeps in there: beginnings of prompts

DECODER_RECIPES = ("exact", "compact", "int8-rotated", "q4", "fp32")
ENCODER_RECIPES = ("int8", "exact", "fp32")
RECIPES = ("exact", "compact", "int8-rotated", "q4", "int8", "fp32")
"""How weights are stored. exact: as close as 8 bits get, 4 bits stay 4 where that is faster; compact: 4 bits stay 4
everywhere; int8-rotated: compact, and a second graph in rotated int8 for prompts and crowds; q4: a full-precision
source is rounded to 4 bits; int8, of encoders alone: integer products; fp32: the source's values, the reference."""
TARGETS = ("cpu", "cuda", "directml")
"""The execution providers that graphs are made for: converters/targets.py says how they differ."""
ENCODER_TARGETS = ("cpu", "cuda")
"""Those for models that embed or rank."""
KV_TYPES = ("f32", "q8_0")
"""How keys and values are cached: float32, or int8 with a scale per channel."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle's description. `eos_tokens` are all the ids that end a reply.

    Encoders and rerankers have no KV cache, so 0 `kv_heads`; an encoder has an `embedding_length`, that of what it
    returns, and both say how many attention `heads` they have, and how they are pooled: "mean", "cls" or "last".

    `graph` is the contract of a decoder's graph: ours, or that of graphs that others made, see engine/foreign.py.
    """

    architecture: str
    parameters: int
    layers: int
    kv_heads: int
    head_dim: int
    hidden_size: int
    vocab_size: int
    context_length: int
    bos_token: int | None
    eos_tokens: tuple[int, ...]
    add_bos: bool
    recipe: str
    source_digest: str
    kind: Literal["decoder", "encoder", "reranker"] = "decoder"
    heads: int = 0
    embedding_length: int = 0
    pooling: str = ""
    kv_dtype: str = "float32"
    target: str = "cpu"
    graph: Literal["ours", "past", "shared"] = "ours"
    format_version: int = FORMAT_VERSION
    converter_version: int = CONVERTER_VERSION
    report: dict[str, Any] = field(default_factory=dict)

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes that one token occupies in the KV cache, all layers, keys and values."""
        itemsize = {"float32": 4, "float16": 2, "int8": 1}[self.kv_dtype]
        return 2 * self.layers * self.kv_heads * self.head_dim * itemsize


def write_description(folder: Path, bundle: Bundle) -> None:
    """Write `bundle.json` into `folder`."""
    (folder / DESCRIPTION).write_text(json.dumps(asdict(bundle), indent=2) + "\n", encoding="utf-8")


def read_description(folder: Path) -> Bundle:
    """Read `folder`'s description; raises ModelFileError when it is missing, damaged or of another format."""
    try:
        facts = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        facts["eos_tokens"] = tuple(facts["eos_tokens"])
        bundle = Bundle(**facts)
    except FileNotFoundError as error:
        raise ModelFileError("no bundle.json: not a bundle") from error
    except (ValueError, TypeError, KeyError) as error:
        raise ModelFileError(f"bundle.json is damaged: {error}") from error
    if bundle.format_version != FORMAT_VERSION:
        raise ModelFileError(f"bundle format {bundle.format_version} is not {FORMAT_VERSION}; convert the model again")
    return bundle
