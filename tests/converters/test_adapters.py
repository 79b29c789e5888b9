"""LoRA merged at conversion against what PEFT computes: adapters in GGUF and in PEFT's form, on both kinds of base."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFWriter
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.numpy import load_file, save_file
from transformers import AutoModelForCausalLM

from appliance.bundle import read_description
from appliance.errors import ApplianceError
from converters.bundle import convert
from converters.peft import open_model
from tests.converters.oracle import CASES, Reference, make
from tests.converters.oracle.writing import name_map
from tests.converters.running import Decoder
from tests.tiny_model import add_key, add_tensor

R, ALPHA = 4, 12


@dataclass(frozen=True, slots=True)
class Adapted:
    """A base in both forms, an adapter in both forms, and the logits [tokens, vocabulary] that PEFT computes."""

    base: Reference
    peft: Path
    gguf: Path
    logits: np.ndarray


def train(reference: Reference, folder: Path, **options: Any) -> PeftModel:
    """A random adapter for the reference's model, saved in `folder`."""
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_pretrained(reference.folder, attn_implementation="eager", dtype=torch.float32)
    config = LoraConfig(r=R, lora_alpha=ALPHA, target_modules="all-linear", init_lora_weights=False, **options)
    adapted = get_peft_model(model, config).eval()
    adapted.save_pretrained(folder)
    return adapted


def write_adapter(path: Path, reference: Reference, peft: Path, **metadata: Any) -> Path:
    """The adapter as llama.cpp's converter writes it: rows of Llama's queries and keys in the order of rotary pairs."""
    case = reference.case
    writer = GGUFWriter(path, case.architecture)
    keys = {"general.type": "adapter", "adapter.type": "lora", "adapter.lora.alpha": float(ALPHA)}
    for key, value in (keys | {key.replace("__", "."): value for key, value in metadata.items()}).items():
        add_key(writer, key, value)
    names = name_map(case.architecture, case.full_config["num_hidden_layers"])
    for key, array in load_file(peft / "adapter_model.safetensors").items():
        module, _, part = key.removeprefix("base_model.model.").removesuffix(".weight").rpartition(".")
        for kind, heads in (("q_proj", "num_attention_heads"), ("k_proj", "num_key_value_heads")):
            if case.architecture == "llama" and module.endswith(kind) and part == "lora_B":
                count, size = case.full_config[heads], len(array) // case.full_config[heads]
                order = [
                    head * size + half * size // 2 + i
                    for head in range(count)
                    for i in range(size // 2)
                    for half in (0, 1)
                ]
                array = array[order]
        add_tensor(writer, f"{names(module + '.weight')}.{part.lower()}", np.ascontiguousarray(array), "F32")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module", params=["llama", "qwen2"])
def adapted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Adapted:
    folder = tmp_path_factory.mktemp(request.param)
    reference = make(CASES[request.param], folder)
    model = train(reference, folder / "peft")
    with torch.inference_mode():
        logits = model(torch.tensor([reference.ids])).logits[0].numpy()
    assert np.abs(logits - reference.logits).max() > 1  # the adapter matters
    gguf = write_adapter(folder / "adapter.gguf", reference, folder / "peft")
    return Adapted(reference, folder / "peft", gguf, logits)


@pytest.mark.parametrize("base", ["gguf", "folder"])
@pytest.mark.parametrize("adapter", ["gguf", "peft"])
def test_logits_are_those_of_peft(adapted: Adapted, tmp_path: Path, base: str, adapter: str) -> None:
    convert(getattr(adapted.base, base), tmp_path / "b", "fp32", adapter=getattr(adapted, adapter))
    logits = Decoder(tmp_path / "b").all_logits(adapted.base.ids)
    np.testing.assert_allclose(logits, adapted.logits, atol=1e-3)


@pytest.mark.parametrize("adapter", ["gguf", "peft"])
def test_matrices_of_a_folder_are_those_that_peft_merges(adapted: Adapted, adapter: str) -> None:
    base = AutoModelForCausalLM.from_pretrained(adapted.base.folder, dtype=torch.float32)
    merged = PeftModel.from_pretrained(base, adapted.peft).merge_and_unload()
    weights = {name: parameter.detach().numpy() for name, parameter in merged.named_parameters()}
    with open_model(adapted.base.folder, getattr(adapted, adapter)) as source:
        for module, name in (("self_attn.q_proj", "attn_q"), ("self_attn.k_proj", "attn_k"), ("mlp.up_proj", "ffn_up")):
            found = source.values(source.tensors[f"blk.1.{name}.weight"])
            np.testing.assert_allclose(found, weights[f"model.layers.1.{module}.weight"], atol=1e-5)


def test_in_8_bits_it_is_close(adapted: Adapted, tmp_path: Path) -> None:
    convert(adapted.base.gguf, tmp_path / "b", "exact", adapter=adapted.gguf)
    logits = Decoder(tmp_path / "b").all_logits(adapted.base.ids)
    assert np.abs(logits - adapted.logits).mean() < 0.1 * adapted.logits.std()
    report = read_description(tmp_path / "b").report
    assert 0 < report["tensors"]["blk.0.attn_q.weight"] < 0.01


def test_the_base_is_left_as_it_was(adapted: Adapted, tmp_path: Path) -> None:
    before = adapted.base.gguf.read_bytes()
    convert(adapted.base.gguf, tmp_path / "adapted", "fp32", adapter=adapted.gguf)
    assert adapted.base.gguf.read_bytes() == before
    digests = set()
    for name, adapter in (("plain", None), ("gguf", adapted.gguf), ("peft", adapted.peft)):
        convert(adapted.base.gguf, tmp_path / name, "fp32", adapter=adapter)
        digests.add(read_description(tmp_path / name).source_digest)
    assert len(digests) == 3
    np.testing.assert_allclose(Decoder(tmp_path / "plain").all_logits(adapted.base.ids), adapted.base.logits, atol=1e-3)


@pytest.mark.parametrize("options", [{"use_rslora": True}, {"target_modules": ["q_proj", "down_proj"]}])
def test_ways_to_train(tmp_path: Path, options: dict[str, Any]) -> None:
    reference = make(CASES["llama"], tmp_path)
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_pretrained(reference.folder, attn_implementation="eager", dtype=torch.float32)
    settings = {"r": 8, "lora_alpha": 4, "target_modules": "all-linear", "init_lora_weights": False, **options}
    peft = get_peft_model(model, LoraConfig(**settings)).eval()
    peft.save_pretrained(tmp_path / "peft")
    with torch.inference_mode():
        expected = peft(torch.tensor([reference.ids])).logits[0].numpy()
    convert(reference.gguf, tmp_path / "b", "fp32", adapter=tmp_path / "peft")
    np.testing.assert_allclose(Decoder(tmp_path / "b").all_logits(reference.ids), expected, atol=1e-3)


def test_half_precision_adapters(adapted: Adapted, tmp_path: Path) -> None:
    tensors = load_file(adapted.peft / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_bytes((adapted.peft / "adapter_config.json").read_bytes())
    save_file(
        {name: array.astype(np.float16) for name, array in tensors.items()}, tmp_path / "adapter_model.safetensors"
    )
    convert(adapted.base.gguf, tmp_path / "b", "fp32", adapter=tmp_path)
    logits = Decoder(tmp_path / "b").all_logits(adapted.base.ids)
    assert np.abs(logits - adapted.logits).max() < 0.1


Change = Callable[[dict[str, Any], dict[str, np.ndarray]], None]


def setting(key: str, value: Any) -> Change:
    return lambda config, tensors: config.update({key: value})


def renamed(old: str, new: str) -> Change:
    def change(config: dict[str, Any], tensors: dict[str, np.ndarray]) -> None:
        for name in [name for name in tensors if old in name]:
            tensors[name.replace(old, new)] = tensors.pop(name)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (setting("use_dora", True), "use_dora = True"),
        (setting("modules_to_save", ["lm_head"]), "modules_to_save"),
        (setting("rank_pattern", {"q_proj": 8}), "rank_pattern"),
        (setting("fan_in_fan_out", True), "fan_in_fan_out"),
        (setting("bias", "all"), "bias = all"),
        (setting("something_new", 1), "something_new = 1"),
        (setting("init_lora_weights", "pissa"), "init_lora_weights = pissa"),
        (setting("peft_type", "IA3"), "type IA3"),
        (setting("r", 0), "r is 0"),
        (setting("r", 8), "with r 8"),
        (renamed("lora_A", "lora_magnitude_vector"), "lora_magnitude_vector"),
        (renamed("lora_A", "lora_embedding_A"), "lora_embedding_A"),
        (renamed("q_proj", "w_pack"), "w_pack"),
        (renamed("model.layers.0.self_attn.q_proj", "model.embed_tokens"), "embedding"),
        (renamed("layers.0.self_attn.q_proj.lora_A", "layers.0.mlp.down_proj.lora_A"), "every matrix needs"),
    ],
)
def test_what_is_not_plain_lora_is_refused(adapted: Adapted, tmp_path: Path, change: Change, message: str) -> None:
    config = json.loads((adapted.peft / "adapter_config.json").read_text())
    tensors = load_file(adapted.peft / "adapter_model.safetensors")
    change(config, tensors)
    (tmp_path / "peft").mkdir()
    (tmp_path / "peft" / "adapter_config.json").write_text(json.dumps(config))
    save_file(tensors, tmp_path / "peft" / "adapter_model.safetensors")
    with pytest.raises(ApplianceError, match=message):
        convert(adapted.base.gguf, tmp_path / "b", "fp32", adapter=tmp_path / "peft")
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"general__type": "model"}, "general.type = 'model'"),
        ({"adapter__type": "control_vector"}, "control_vector"),
        ({"adapter__alora__invocation_tokens": [1]}, "alora"),
        ({"adapter__lora__alpha": float("inf")}, "alpha is"),
    ],
)
def test_gguf_adapters_that_are_refused(
    adapted: Adapted, tmp_path: Path, metadata: dict[str, Any], message: str
) -> None:
    path = write_adapter(tmp_path / "a.gguf", adapted.base, adapted.peft, **metadata)
    with pytest.raises(ApplianceError, match=message):
        convert(adapted.base.gguf, tmp_path / "b", "fp32", adapter=path)


def test_an_adapter_for_another_model(adapted: Adapted, tmp_path: Path) -> None:
    other = "qwen2" if adapted.base.case.architecture == "llama" else "llama"
    (tmp_path / "other").mkdir()
    reference = make(CASES[other], tmp_path / "other")
    with pytest.raises(ApplianceError, match="for the architecture"):
        convert(reference.gguf, tmp_path / "b", "fp32", adapter=adapted.gguf)


def test_a_source_says_what_it_became(adapted: Adapted) -> None:
    with open_model(adapted.base.gguf, adapted.gguf) as merged, open_model(adapted.base.gguf, None) as plain:
        assert merged.tensors["blk.0.attn_q.weight"].type_name == "F32"
        assert merged.metadata == plain.metadata
        assert merged.tensors["output_norm.weight"] == plain.tensors["output_norm.weight"]
