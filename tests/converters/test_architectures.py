"""Every decoder architecture against transformers' own model: one row each, however the tokens are dealt out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from appliance.errors import UnsupportedModel
from converters.architectures import ARCHITECTURES
from converters.bundle import convert
from tests.converters.oracle import CASES, PROMPT, Reference, make
from tests.converters.running import Decoder

NOT_READY = ("phi3-long",)
READY = [name for name, case in CASES.items() if case.architecture in ARCHITECTURES and name not in NOT_READY]


@pytest.fixture(scope="module", params=READY)
def reference(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    return make(CASES[request.param], tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def bundle(reference: Reference) -> Path:
    """The model from its GGUF file, in float32."""
    folder = reference.gguf.with_name("fp32")
    convert(reference.gguf, folder, "fp32")
    return folder


def equal(actual: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(actual, expected, atol=2e-4)


def dealt(folder: Path, ids: list[int], sizes: Iterator[int]) -> np.ndarray:
    """Logits [len(ids), vocabulary] of tokens that come so many at a time."""
    decoder, done, parts = Decoder(folder), 0, []
    while done < len(ids):
        chunk = ids[done : done + next(sizes)]
        parts.append(decoder.step([chunk], [done], [range(len(chunk))])[0])
        done += len(chunk)
    return np.concatenate(parts)


class TestFloat32:
    def test_prefill(self, reference: Reference, bundle: Path) -> None:
        equal(Decoder(bundle).all_logits(reference.ids), reference.logits)

    def test_chunks(self, reference: Reference, bundle: Path) -> None:
        equal(dealt(bundle, reference.ids, iter((5, 20, 2, 13, 8))), reference.logits)

    def test_one_token_at_a_time(self, reference: Reference, bundle: Path) -> None:
        equal(dealt(bundle, reference.ids, iter([1] * len(reference.ids))), reference.logits)

    def test_continues_a_prompt_as_transformers_does_over_its_cache(self, reference: Reference, bundle: Path) -> None:
        sizes = iter([PROMPT, *[1] * len(reference.continued)])
        equal(dealt(bundle, reference.ids, sizes)[PROMPT:], reference.continued)


def test_long_factors_are_left_out_with_the_texts_that_need_them(tmp_path: Path) -> None:
    """LongRoPE's short factors hold up to the length of the first training, and there the bundle's context ends."""
    reference = make(CASES["phi3-long"], tmp_path)
    trained = CASES["phi3-long"].config["original_max_position_embeddings"]
    assert convert(reference.gguf, tmp_path / "fp32", "fp32").context_length == trained
    model = AutoModelForCausalLM.from_pretrained(reference.folder, attn_implementation="eager").eval()
    with torch.inference_mode():
        expected = model(torch.tensor([reference.ids[:trained]])).logits[0].numpy()
    equal(Decoder(tmp_path / "fp32", capacity=trained).all_logits(reference.ids[:trained]), expected)


@pytest.mark.parametrize("name", ["gemma2", "gemma3"])
def test_what_a_rotation_would_change_is_refused_by_name(tmp_path: Path, name: str) -> None:
    reference = make(CASES[name], tmp_path)
    with pytest.raises(UnsupportedModel, match=f"recipe 'int8-rotated' for the architecture {name}.*exact, compact"):
        convert(reference.gguf, tmp_path / "bundle", "int8-rotated")
