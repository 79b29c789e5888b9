"""Every decoder architecture against transformers' own model: however the tokens are dealt out, and by every recipe."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from appliance.bundle import BATCH, MODEL, WEIGHTS
from appliance.errors import NotGGUF, UnsupportedModel
from appliance.store.footprint import footprint
from appliance.store.gguf_header import read_header
from converters.architectures import ARCHITECTURES, decoder, gemma3, phi3
from converters.architectures.keys import Keys
from converters.bundle import convert
from tests.converters.oracle import CASES, PROMPT, Make, Reference, make
from tests.converters.oracle.writing import write_gguf
from tests.converters.running import HALF, Decoder, relative_error, usual_error

# One case of each architecture that has as many of its features as fit together.
ONE_EACH = (
    *("llama-3", "mistral-window", "smollm3", "qwen2", "qwen3", "gemma", "gemma2", "gemma3", "phi3-window", "granite"),
    *("qwen3moe", "granitemoe-shared"),
)
NOT_ROTATED = ("qwen3moe", "granitemoe-shared")


@pytest.fixture(scope="module", params=[name for name in CASES if name != "phi3-long"])
def reference(request: pytest.FixtureRequest, made: Make) -> Reference:
    return made(request.param)


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
    @pytest.mark.proves(source="GGUF", target="cpu")
    def test_prefill(self, reference: Reference, bundle: Path) -> None:
        equal(Decoder(bundle).all_logits(reference.ids), reference.logits)

    def test_chunks(self, reference: Reference, bundle: Path) -> None:
        equal(dealt(bundle, reference.ids, iter((5, 20, 2, 13, 8))), reference.logits)

    def test_one_token_at_a_time(self, reference: Reference, bundle: Path) -> None:
        equal(dealt(bundle, reference.ids, iter([1] * len(reference.ids))), reference.logits)

    @pytest.mark.proves(source="GGUF", target="cpu")
    def test_continues_a_prompt_as_transformers_does_over_its_cache(self, reference: Reference, bundle: Path) -> None:
        sizes = iter([PROMPT, *[1] * len(reference.continued)])
        equal(dealt(bundle, reference.ids, sizes)[PROMPT:], reference.continued)

    @pytest.mark.proves(source="safetensors", target="cpu")
    def test_from_the_hugging_face_folder(self, reference: Reference) -> None:
        folder = reference.folder.with_name("fp32-of-folder")
        convert(reference.folder, folder, "fp32")
        logits = dealt(folder, reference.ids, iter([PROMPT, *[1] * len(reference.continued)]))
        equal(logits[:PROMPT], reference.logits[:PROMPT])
        equal(logits[PROMPT:], reference.continued)


class TestFloat16:
    """Graphs for accelerators, run on the CPU."""

    @pytest.mark.proves(source="GGUF")
    @pytest.mark.parametrize("target", ["cuda", "directml"])
    def test_computes_what_transformers_computes(self, reference: Reference, target: str) -> None:
        folder = reference.gguf.with_name(target)
        if "moe" in reference.case.architecture and target == "directml":
            with pytest.raises(UnsupportedModel, match=f"a mixture of experts for {target}"):
                convert(reference.gguf, folder, "fp32", target=target)
            return
        convert(reference.gguf, folder, "fp32", target=target)
        logits = dealt(folder, reference.ids, iter([PROMPT, *[1] * len(reference.continued)]))
        assert 0 < usual_error(logits, reference.logits) < HALF


def test_long_factors_are_left_out_with_the_texts_that_need_them(tmp_path: Path) -> None:
    """LongRoPE's short factors hold up to the length of the first training, and there the bundle's context ends."""
    reference = make(CASES["phi3-long"], tmp_path)
    trained = CASES["phi3-long"].config["original_max_position_embeddings"]
    assert convert(reference.gguf, tmp_path / "fp32", "fp32").context_length == trained
    model = AutoModelForCausalLM.from_pretrained(reference.folder, attn_implementation="eager").eval()
    with torch.inference_mode():
        expected = model(torch.tensor([reference.ids[:trained]])).logits[0].numpy()
    equal(Decoder(tmp_path / "fp32", capacity=trained).all_logits(reference.ids[:trained]), expected)


@pytest.mark.parametrize(
    ("name", "tensor_type"), [("gemma3", "F32"), ("phi3-long", "F32"), ("qwen3", "F32"), ("qwen3moe", "Q4_1")]
)
def test_tables_of_positions_and_experts_count_in_the_estimate_of_a_bundle(
    made: Make, name: str, tensor_type: str
) -> None:
    source = made(name, tensor_type).gguf
    estimate, folder = footprint(read_header(source)), source.with_name("estimated")
    bundle = convert(source, folder, "exact")
    assert estimate.context_tokens == bundle.context_length
    assert estimate.weights["exact"] == pytest.approx((folder / WEIGHTS).stat().st_size, rel=0.05)


@pytest.mark.parametrize("name", ["gemma2", "gemma3"])
def test_a_stream_that_outgrows_float16_is_kept_in_larger_units(made: Make, tmp_path: Path, name: str) -> None:
    reference = made(name)
    model = AutoModelForCausalLM.from_pretrained(reference.folder, attn_implementation="eager").eval()
    weights = {key: parameter.detach().numpy() for key, parameter in model.named_parameters()}
    weights |= {key: array + 3e4 for key, array in weights.items() if "post_" in key}
    source = write_gguf(tmp_path / "model.gguf", name, model.config.to_dict(), weights, "F32")
    convert(source, tmp_path / "cpu", "fp32")
    convert(source, tmp_path / "cuda", "fp32", target="cuda")
    expected, half = (Decoder(tmp_path / target).all_logits(reference.ids) for target in ("cpu", "cuda"))
    assert relative_error(half, expected) < HALF


def test_granite_without_a_rotary_embedding(made: Make, tmp_path: Path) -> None:
    """Some of Granite 4; where all positions are 0, nothing turns in transformers' model either."""
    reference = made("granite")
    model = AutoModelForCausalLM.from_pretrained(reference.folder, attn_implementation="eager").eval()
    with torch.inference_mode():
        positions = torch.zeros(1, len(reference.ids), dtype=torch.long)
        expected = model(torch.tensor([reference.ids]), position_ids=positions).logits[0].numpy()
        weights = {name: parameter.numpy() for name, parameter in model.named_parameters()}
    config = model.config.to_dict() | {"position_embedding_type": "nope"}
    convert(write_gguf(tmp_path / "model.gguf", "granite", config, weights, "F32"), tmp_path / "fp32", "fp32")
    equal(Decoder(tmp_path / "fp32").all_logits(reference.ids), expected)
    assert abs(expected - reference.logits).max() > 0.1


def test_long_factors_that_are_missing(made: Make) -> None:
    header = read_header(made("phi3-long").gguf)
    tensors = {tensor.name: tensor for tensor in header.tensors if tensor.name != phi3.SHORT}
    with pytest.raises(NotGGUF, match=r"tensor rope_factors_short\.weight is missing"):
        phi3.read_config(header.metadata, tensors)


def test_keys_of_gemma_3_as_ollama_writes_them(made: Make) -> None:
    header = read_header(made("gemma3").gguf)
    tensors = {tensor.name: tensor for tensor in header.tensors}
    bases = {"gemma3.rope.global.freq_base": 1e6, "gemma3.rope.local.freq_base": 10000.0}
    keys = {key: value for key, value in header.metadata.items() if key != "gemma3.rope.freq_base"} | bases
    assert gemma3.read_config(keys, tensors) == gemma3.read_config(header.metadata, tensors)
    other = gemma3.read_config(keys | {"gemma3.rope.local.freq_base": 500.0}, tensors)
    assert (other.rope.base, other.local_rope.base) == (1e6, 500.0)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        (None, [True, True, False, True, True, False, True]),
        (2, [True, False] * 3 + [True]),
        (1, [False] * 7),
        (9, [True] * 7),
        ([False, True, True, True, True, True, True], [False] + [True] * 6),
    ],
)
def test_patterns_of_windows(pattern: object, expected: list[bool]) -> None:
    keys = Keys("x", {"x.attention.sliding_window_pattern": pattern} if pattern else {})
    assert decoder.windowed(keys, 7, (True, True, False)) == tuple(expected)


@pytest.mark.parametrize("pattern", [0, -1, "2", [], [1, 0], 2.0])
def test_patterns_that_are_none(pattern: object) -> None:
    with pytest.raises(NotGGUF, match=r"x\.attention\.sliding_window_pattern is"):
        decoder.windowed(Keys("x", {"x.attention.sliding_window_pattern": pattern}), 7, (True, False))


def test_every_decoder_has_a_case() -> None:
    decoders = {name for name, module in ARCHITECTURES.items() if issubclass(module.Config, decoder.Config)}
    assert {case.architecture for case in CASES.values()} == decoders


def loss(reference: Reference, folder: Path, recipe: str, kv: str = "f32", graph: str = MODEL) -> float:
    """The relative error of the logits of a bundle that is made in `folder`."""
    convert(reference.gguf, folder, recipe, kv=kv)
    return relative_error(Decoder(folder, graph=graph).all_logits(reference.ids), reference.logits)


class TestRecipes:
    """Random models magnify what rounding does; a graph that computes something else has an error of 1 and more."""

    @pytest.mark.parametrize("name", ONE_EACH)
    def test_exact(self, made: Make, tmp_path: Path, name: str) -> None:
        assert loss(made(name), tmp_path / "bundle", "exact") < 0.15

    @pytest.mark.parametrize("name", ONE_EACH)
    def test_compact(self, made: Make, tmp_path: Path, name: str) -> None:
        assert loss(made(name, "Q4_1"), tmp_path / "bundle", "compact") < 0.12

    @pytest.mark.parametrize("tensor_type", ["Q4_0", "Q8_0"])
    @pytest.mark.parametrize("name", ["qwen3moe", "granitemoe-shared"])
    def test_experts_as_they_are_in_the_source(self, made: Make, tmp_path: Path, name: str, tensor_type: str) -> None:
        assert loss(made(name, tensor_type), tmp_path / "bundle", "exact") < 0.12

    @pytest.mark.parametrize("name", ONE_EACH)
    def test_a_cache_in_int8(self, made: Make, tmp_path: Path, name: str) -> None:
        assert loss(made(name), tmp_path / "bundle", "fp32", kv="q8_0") < 0.4

    @pytest.mark.parametrize("name", ["smollm3", "qwen3moe"])
    def test_q4(self, made: Make, tmp_path: Path, name: str) -> None:
        assert loss(made(name), tmp_path / "bundle", "q4") < 0.8

    @pytest.mark.parametrize("name", [name for name in ONE_EACH if name not in NOT_ROTATED])
    def test_int8_rotated(self, made: Make, tmp_path: Path, name: str) -> None:
        assert loss(made(name), tmp_path / "bundle", "int8-rotated", graph=BATCH) < 0.2

    @pytest.mark.parametrize("name", NOT_ROTATED)
    def test_what_a_rotation_cannot_have_is_refused_by_name(self, made: Make, tmp_path: Path, name: str) -> None:
        architecture = CASES[name].architecture
        refusal = f"recipe 'int8-rotated' for the architecture {architecture}, .*exact, compact"
        with pytest.raises(UnsupportedModel, match=refusal):
            convert(made(name).gguf, tmp_path / "bundle", "int8-rotated")


def test_no_tokens_wanted_is_no_work_for_experts(made: Make, tmp_path: Path) -> None:
    """A chunk in the middle of a prompt wants no logits, so no row goes through the last layer's experts."""
    reference = made("qwen3moe")
    convert(reference.gguf, tmp_path / "bundle", "exact")
    decoder = Decoder(tmp_path / "bundle")
    assert decoder.step([reference.ids[:20]], [0], [[]]).shape == (1, 0, 267)
