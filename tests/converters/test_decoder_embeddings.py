"""Decoders that embed against transformers' hidden states, pooled: from GGUF and sentence-transformers' folders."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import processors
from transformers import AutoConfig, AutoModel

from appliance.bundle import Bundle, read_description
from appliance.engine.encoder import Encoder
from appliance.engine.providers import CPU
from appliance.errors import UnsupportedModel
from appliance.prompt.tokenizer import Tokenizer
from converters.bundle import convert
from tests.converters.oracle import CASES
from tests.converters.oracle.reference import random_weights, tokenizer
from tests.converters.oracle.writing import write_gguf
from tests.tiny_model import CONTROL, tiny_tokens

POOLINGS = {"mean": 1, "cls": 2, "last": 3}
FOLDER_NAMES = {"mean": "pooling_mode_mean_tokens", "last": "pooling_mode_lasttoken"}
POOLED: dict[str, Callable[[Any], Any]] = {
    "mean": lambda states: states.mean(0),
    "cls": lambda states: states[0],
    "last": lambda states: states[-1],
}
END, END_ID = CONTROL[-1], len(tiny_tokens()) - 1
RNG = np.random.default_rng(3)
# Lengths that differ by less than a batch may be padded by, and others; windows are of 16 tokens.
LENGTHS = (40, 33, 9, 1, 5, 30)
Open = Callable[..., tuple[Encoder, Bundle]]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    """Converts a source and opens the bundle."""
    encoders: list[Encoder] = []

    def opened(source: Path, recipe: str = "fp32") -> tuple[Encoder, Bundle]:
        folder = tmp_path / f"bundle-{len(encoders)}"
        convert(source, folder, recipe)
        bundle = read_description(folder)
        encoders.append(Encoder(folder, bundle, provider=CPU, threads=1))
        return encoders[-1], bundle

    yield opened
    for encoder in encoders:
        encoder.close()


class Model:
    """A case's model in transformers, without its head."""

    def __init__(self, name: str) -> None:
        self.case = CASES[name]
        self.config = AutoConfig.for_model(self.case.model_type, **self.case.full_config)
        self.model = AutoModel.from_config(self.config, attn_implementation="eager", dtype=torch.float32).eval()
        self.weights = random_weights(self.model, self.case, "F32")
        self.texts = [RNG.integers(0, self.config.vocab_size, length).tolist() for length in LENGTHS]

    def gguf(self, folder: Path, **more: Any) -> Path:
        weights = {f"model.{name}": array for name, array in self.weights.items()}
        path = folder / "model.gguf"
        return write_gguf(path, self.case.architecture, self.config.to_dict(), weights, "F32", **more)

    def folder(self, folder: Path, pooling: str) -> Path:
        """As sentence-transformers saves it, with an end behind every text, as Qwen3-Embedding wants it."""
        self.model.save_pretrained(folder)
        words = tokenizer()
        words.backend_tokenizer.post_processor = processors.TemplateProcessing(
            f"$A {END}", special_tokens=[(END, END_ID)]
        )
        words.save_pretrained(folder)
        kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
        modules = [{"path": path, "type": f"sentence_transformers.models.{kind}"} for path, kind in kinds.items()]
        (folder / "modules.json").write_text(json.dumps(modules))
        (folder / "1_Pooling").mkdir()
        settings = {name: name == FOLDER_NAMES[pooling] for name in FOLDER_NAMES.values()}
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(settings))
        return folder

    @torch.inference_mode()
    def embeddings(self, pooling: str) -> np.ndarray:
        rows = [POOLED[pooling](self.model(torch.tensor([text])).last_hidden_state[0]) for text in self.texts]
        return np.stack([row.numpy() for row in rows])


def cosines(actual: np.ndarray, expected: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(actual, axis=1) * np.linalg.norm(expected, axis=1)
    return np.asarray((actual * expected).sum(axis=1) / lengths)


@pytest.mark.proves(source="GGUF", target="cpu")
@pytest.mark.parametrize(
    ("name", "pooling"),
    [
        ("qwen3", "last"),
        ("qwen3", "mean"),
        ("llama", "last"),
        ("llama", "cls"),
        ("mistral-window", "mean"),
        *((name, "last") for name in ("qwen2", "gemma", "gemma2", "gemma3", "phi3-window", "smollm3")),
        *((name, "last") for name in ("granite", "qwen3moe", "granitemoe-shared")),
    ],
)
def test_gguf(opened: Open, tmp_path: Path, name: str, pooling: str) -> None:
    model = Model(name)
    encoder, bundle = opened(model.gguf(tmp_path, pooling_type=POOLINGS[pooling]))
    assert (bundle.kind, bundle.pooling, bundle.kv_heads, bundle.heads) == ("encoder", pooling, 0, 4)
    np.testing.assert_allclose(encoder.encode(model.texts), model.embeddings(pooling), atol=1e-4)


@pytest.mark.parametrize("target", ["cuda", "directml"])
def test_is_for_the_cpu(tmp_path: Path, target: str) -> None:
    source = Model("qwen3").gguf(tmp_path, pooling_type=POOLINGS["last"])
    with pytest.raises(UnsupportedModel, match=f"target {target} for a "):
        convert(source, tmp_path / "bundle", "fp32", target=target)


@pytest.mark.proves(source="safetensors", target="cpu")
@pytest.mark.parametrize(("name", "pooling"), [("qwen3-tied", "last"), ("llama", "mean")])
def test_folder(opened: Open, tmp_path: Path, name: str, pooling: str) -> None:
    model = Model(name)
    encoder, bundle = opened(model.folder(tmp_path / "hf", pooling))
    np.testing.assert_allclose(encoder.encode(model.texts), model.embeddings(pooling), atol=1e-4)
    assert Tokenizer.load(tmp_path / "bundle-0", bundle).encode_input("a text").ids[-1] == END_ID


@pytest.mark.parametrize("recipe", ["exact", "int8"])
def test_recipes(opened: Open, tmp_path: Path, recipe: str) -> None:
    model = Model("qwen3")
    encoder, _ = opened(model.gguf(tmp_path, pooling_type=POOLINGS["last"]), recipe)
    assert cosines(encoder.encode(model.texts), model.embeddings("last")).min() > 0.99


@pytest.mark.parametrize("kind", [0, 4, 9, "last"])
def test_other_poolings_are_refused(tmp_path: Path, kind: object) -> None:
    source = Model("llama").gguf(tmp_path, pooling_type=kind)
    with pytest.raises(UnsupportedModel, match=rf"llama\.pooling_type = {kind} of a decoder"):
        convert(source, tmp_path / "bundle", "fp32")


def test_recipes_of_decoders_are_refused(tmp_path: Path) -> None:
    source = Model("llama").gguf(tmp_path, pooling_type=POOLINGS["last"])
    with pytest.raises(UnsupportedModel, match="a model that embeds or ranks"):
        convert(source, tmp_path / "bundle", "compact")
