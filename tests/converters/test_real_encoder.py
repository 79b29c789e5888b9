"""all-MiniLM-L6-v2 from its folder, against sentence-transformers on 200 texts."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest

from appliance.bundle import read_description
from appliance.engine.encoder import open_encoder
from appliance.prompt.tokenizer import Tokenizer
from converters.bundle import convert
from tests.minilm import minilm_folder

WORDS = (Path(__file__).parents[1] / "data" / "english.txt").read_text(encoding="utf-8").split()
RNG = np.random.default_rng(9)
TEXTS = [
    " ".join(WORDS[start : start + length])
    for start, length in zip(RNG.integers(0, len(WORDS) - 60, 200), RNG.integers(5, 60, 200), strict=True)
]


@pytest.fixture(scope="module")
def expected() -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from sentence_transformers import SentenceTransformer

        model = SentenceTransformer(str(minilm_folder()), device="cpu")
        vectors: np.ndarray = model.encode(TEXTS, normalize_embeddings=True)
    return vectors


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "bar"), [("fp32", 0.999), ("int8", 0.99)])
def test_minilm_gives_the_embeddings_of_sentence_transformers(
    expected: np.ndarray, tmp_path: Path, recipe: str, bar: float
) -> None:
    bundle = convert(minilm_folder(), tmp_path / "bundle", recipe)
    tokenizer = Tokenizer.load(tmp_path / "bundle", bundle)
    encoder = open_encoder(tmp_path / "bundle", read_description(tmp_path / "bundle"), setting="cpu", threads=2)
    vectors = encoder.encode([tokenizer.encode_input(text).ids for text in TEXTS])
    encoder.close()
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    assert (vectors * expected).sum(axis=1).min() >= bar
