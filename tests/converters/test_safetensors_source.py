"""Reading a Hugging Face folder's weights: every dtype, several files, few rows at a time, and what is damaged."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from appliance.bundle import WEIGHTS as WEIGHTS_FILE
from appliance.errors import ModelFileError, NotSafetensors, UnsupportedModel
from converters import safetensors_source
from converters.bundle import convert
from converters.safetensors_source import SafetensorsSource
from converters.source import open_source
from converters.split_source import SplitSource
from tests.store.test_parts import write_split
from tests.tiny_folder import DTYPES, checkpoint_name, tiny_weights, write_tiny_folder
from tests.tiny_model import write_tiny_gguf

WEIGHTS = tiny_weights()


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype(tmp_path: Path, dtype: str, shards: int) -> None:
    with open_source(write_tiny_folder(tmp_path / "hf", dtype=dtype, shards=shards)) as source:
        assert source.tensors.keys() == WEIGHTS.keys()
        for name, tensor in source.tensors.items():
            expected = WEIGHTS[name].astype(DTYPES[dtype]).astype(np.float32)
            assert tensor.type_name == ("F32" if dtype == "F64" else dtype)
            np.testing.assert_array_equal(source.values(tensor), expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_few_rows_at_a_time(tmp_path: Path, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(safetensors_source, "CHUNK_VALUES", 5 * 64)
    with SafetensorsSource(write_tiny_folder(tmp_path / "hf", dtype=dtype)) as source:
        tensor = source.tensors["token_embd.weight"]
        chunks = list(source.chunks(tensor))
        assert {values.shape for _, values in chunks} == {(5, 64), (267 % 5, 64)}
        assert sum(raw.nbytes for raw, _ in chunks) == tensor.size
        stored = np.concatenate([raw for raw, _ in chunks]).view(DTYPES[tensor.type_name])
        np.testing.assert_array_equal(stored.astype(np.float32), np.concatenate([values for _, values in chunks]))


def test_gemma_s_gains_are_given_their_1(tmp_path: Path) -> None:
    config = {"model_type": "gemma2", "hidden_activation": "gelu_pytorch_tanh", "tie_word_embeddings": True}
    with SafetensorsSource(write_tiny_folder(tmp_path / "hf", dtype="BF16", config=config)) as source:
        gain = source.tensors["output_norm.weight"]
        assert (gain.type_name, gain.size) == ("F32", 256)
        expected = WEIGHTS[gain.name].astype(DTYPES["BF16"]).astype(np.float32) + 1
        np.testing.assert_array_equal(source.values(gain), expected)
        assert source.tensors["blk.0.ffn_up.weight"].type_name == "BF16"
        assert "output.weight" not in source.tensors


def test_factors_of_llama_3_are_a_tensor(tmp_path: Path) -> None:
    scaling = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": 64}  # fmt: skip
    with SafetensorsSource(write_tiny_folder(tmp_path / "hf", config={"rope_scaling": scaling})) as source:
        tensor = source.tensors["rope_freqs.weight"]
        assert tensor.shape == (8,)
        factors = source.values(tensor)
        assert factors[0] == 1
        assert factors[-1] == 8
        assert (np.diff(factors) >= 0).all()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite(tmp_path: Path, value: float) -> None:
    array = np.full((64, 64), value, np.float32)
    tensors = {checkpoint_name("blk.0.attn_q.weight"): array}
    source = SafetensorsSource(write_tiny_folder(tmp_path / "hf", tensors=tensors))
    with source, pytest.raises(ModelFileError, match=r"blk\.0\.attn_q\.weight holds values that are not finite"):
        source.values(source.tensors["blk.0.attn_q.weight"])


def test_a_file_that_shrinks(tmp_path: Path) -> None:
    folder = write_tiny_folder(tmp_path / "hf")
    with SafetensorsSource(folder) as source:
        (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:5000])
        with pytest.raises(NotSafetensors, match="cut short within tensor output"):
            source.values(source.tensors["output.weight"])


def test_8_bit_floats_are_refused_by_name(tmp_path: Path) -> None:
    folder = write_tiny_folder(tmp_path / "hf")
    raw = (folder / "model.safetensors").read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    for entry in header.values():
        if "dtype" in entry:
            entry["dtype"] = "F8_E4M3"
            entry["shape"][-1] *= 4
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + raw[8 + length :])
    with pytest.raises(UnsupportedModel, match=r"dtype F8_E4M3 of tensor .* is not supported; supported: F32, F16"):
        SafetensorsSource(folder)


def test_an_index_that_names_a_missing_file(tmp_path: Path) -> None:
    folder = write_tiny_folder(tmp_path / "hf", shards=3)
    (folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(ModelFileError, match=r"'model-00002-of-00003\.safetensors', which .* names, is missing"):
        SafetensorsSource(folder)


def test_a_folder_that_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"the folder holds neither a GGUF file nor a config\.json"):
        open_source(tmp_path)


def test_a_split_gguf_from_any_of_its_parts_or_their_folder(tmp_path: Path) -> None:
    paths = write_split(tmp_path)
    digests = set()
    for path in (*paths, tmp_path):
        with open_source(path) as source:
            assert isinstance(source, SplitSource)
            assert source.metadata["llama.context_length"] == 256
            assert not any(key.startswith("split.") for key in source.metadata)
            for number in range(3):
                tensor = source.tensors[f"blk.{number}.ffn_up.weight"]
                assert (source.values(tensor) == number).all()
                assert sum(raw.nbytes for raw, _ in source.chunks(tensor)) == tensor.size
            digests.add(source.digest())
    assert len(digests) == 1
    paths[1].unlink()
    for path in (paths[0], tmp_path):
        with pytest.raises(ModelFileError, match="part 2 of 3 of the split model is missing"):
            open_source(path)
    paths[2].unlink()
    with pytest.raises(ModelFileError):
        open_source(paths[0])


def test_a_split_model_becomes_the_same_bundle(tmp_path: Path) -> None:
    whole = convert(write_tiny_gguf(tmp_path / "whole.gguf", tensor_type="Q4_0"), tmp_path / "a")
    first = write_tiny_gguf(tmp_path / "parts.gguf", tensor_type="Q4_0", split_tensors=8)
    assert len(list(tmp_path.glob("parts-*.gguf"))) == 3
    split = convert(first, tmp_path / "b")
    assert (tmp_path / "a" / WEIGHTS_FILE).read_bytes() == (tmp_path / "b" / WEIGHTS_FILE).read_bytes()
    assert replace(split, report={}, source_digest="") == replace(whole, report={}, source_digest="")
